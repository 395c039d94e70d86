"""How likely a flow finds images: the exact change of variables along its differential equation.

    log p1(x1) = log p0(x0) − ∫ ∇·v(t, x_t) dt,      dx_t = v(t, x_t) dt backward from x1 to x0

(Chen et al., Neural ordinary differential equations, arXiv 1806.07366). The divergence is the trace of the Jacobian,
taken exactly by as many products with it as there are values, or estimated without bias by one random vector of signs
an image that is kept along the way (Hutchinson; Grathwohl et al., FFJORD, arXiv 1810.01367).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.data import rescale
from jgmm.data.images import STEP
from jgmm.encoder.images import encode_images
from jgmm.errors import check
from jgmm.interpolant.solvers import Scheme, integrate
from jgmm.metrics.likelihood import to_bits
from jgmm.numerics.devices import jit_convolutions
from train.batches import in_parts
from train.flow import Flow
from train.sampler import Velocity

Trace = Literal["exact", "hutchinson"]
# Values whose derivatives are taken at a time for the exact trace.
DIRECTIONS = 16


def log_change(
    key: PRNGKeyArray, velocity: Velocity, x1: Float[Array, "b h w c"], trace: Trace, scheme: Scheme
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """x0, and log p1(x1) − log p0(x0). Pure and jittable."""
    signs = jax.random.rademacher(key, x1.shape, x1.dtype)

    def motion(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, _ = state

        def field(x: Array) -> Array:
            return velocity(jnp.full(x.shape[0], t, x.dtype), x)

        if trace == "exact":
            return field(x), divergence(field, x)
        moved, change = jax.jvp(field, (x,), (signs,))
        return moved, (change * signs).sum(axis=(1, 2, 3))

    end = jnp.zeros((), x1.dtype)
    (x0, total), _ = integrate(motion, (x1, jnp.zeros(x1.shape[0], x1.dtype)), end + 1, end, scheme)
    return x0, total


def divergence(field: Callable[[Array], Array], x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Σ_i ∂field_i / ∂x_i, for a field in which images do not meet."""
    size = x[0].size
    padded = -(-size // DIRECTIONS) * DIRECTIONS

    def along(i: Array) -> Array:
        unit = jax.nn.one_hot(i, size, dtype=x.dtype).reshape(1, *x.shape[1:])  # zero beyond the last
        _, change = jax.jvp(field, (x,), (jnp.broadcast_to(unit, x.shape),))
        return (change * unit).sum(axis=(1, 2, 3))

    parts = jnp.arange(padded).reshape(-1, DIRECTIONS)
    return jax.lax.map(lambda part: jax.vmap(along)(part).sum(axis=0), parts).sum(axis=0)


def bits_per_dim(
    key: PRNGKeyArray,
    flow: Flow,
    pixels: np.ndarray,
    trace: Trace = "hutchinson",
    batch_size: int = 50,
) -> np.ndarray:
    """Bits per dimension of each of some 8-bit images under an unconditional flow, with uniform noise as wide as a
    step, by the source's own log_prob.

    Raises:
        InputError: For images of another type, and a source without a density.
    """
    check(pixels.dtype == np.uint8, f"bits per dimension are defined for uint8 images, got {pixels.dtype}.")
    nats = partial(jit_convolutions(_nats, "structure", "trace"), flow.structure, trace)
    known = (flow.parameters, flow.source, flow.space)
    found = in_parts(lambda part, first: nats(jax.random.fold_in(key, first), known, part), rescale(pixels), batch_size)
    return np.array([to_bits(float(one), flow.shape) for one in found])


def _nats(structure: nnx.GraphDef, trace: Trace, key: PRNGKeyArray, flow: tuple, pixels: Array) -> Float[Array, " b"]:
    parameters, source, space = flow
    for_noise, for_trace = jax.random.split(key)
    noisy = pixels + jax.random.uniform(for_noise, pixels.shape, pixels.dtype, -STEP / 2, STEP / 2)
    x1 = encode_images(space, noisy)
    x0, change = log_change(for_trace, nnx.merge(structure, parameters), x1, trace, Scheme("dopri5", None))
    return source.log_prob(space, x0) + change + space.log_det()
