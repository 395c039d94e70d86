"""What a source says of some pixels, and of the others given those: exact marginals and conditionals in pixels.

In component k an image is x = m_k + J F_k ζ with ζ ~ N(0, I): J the rows that decode codes and residual, F_k the
factor of the covariance of the codes. With B the rows of J F_k that belong to the known pixels b, and δ = x_b − m_b,

    log p(x_b | k) = log N(δ | 0, B Bᵀ),     E[ζ | x_b, k] = Bᵀ (B Bᵀ)⁻¹ δ,
    a draw of ζ given x_b:  ζ' + Bᵀ (B Bᵀ)⁻¹ (δ − B ζ')   with ζ' ~ N(0, I)

(the last is Matheron's rule: Wilson et al., Pathwise conditioning of Gaussian processes, 2021, theorem 1). The
Cholesky factor of B Bᵀ is the R of a QR of Bᵀ, so that the spectrum of images is never squared in float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jgmm.covariance.base import component_of
from jgmm.covariance.full import Full
from jgmm.encoder.base import decode_means
from jgmm.errors import InputError, check
from jgmm.mixture import GMM, LOG_2PI
from jgmm.numerics.linalg import lower_factor, matmul
from jgmm.source import Source

# A component whose share in an image is smaller takes no part in the mean.
NEGLIGIBLE = 1e-6


class Completion(NamedTuple):
    """Images of which some pixels were given.

    Attributes:
        mean: E[x0 | known], in which the known pixels are as given.
        draws: samples of p(x0 | known), likewise.
        responsibilities: p(k | known).
        log_prob: log p(known), nats.
    """

    mean: Float[Array, "n ..."]
    draws: Float[Array, "n s ..."]
    responsibilities: Float[Array, "n k"]
    log_prob: Float[Array, " n"]


def pixel_marginal(source: Source, pixels: Sequence[int]) -> GMM:
    """The mixture of some entries of the flattened x0, with full covariances, K matrices of their number squared: for
    few pixels. `GMM.conditional` of it gives some of them given the others.

    Raises:
        InputError: For a source without a density and pixels that are none of its.

    >>> import jgmm
    >>> from jgmm import completion
    >>> from jgmm.encoder.identity import Identity
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[1.0, 5.0, 0.0]], [4.0])
    >>> completion.pixel_marginal(jgmm.unnormalized(gmm, Identity(3), (3,)), [2, 0]).means.tolist()
    [[0.0, 1.0]]
    """
    index = _pixels(source, np.asarray(pixels))
    rows = jax.lax.map(lambda k: _rows(source, index, k), jnp.arange(_gmm(source).k))
    return GMM(_gmm(source).log_weights, _means(source)[:, index], Full(lower_factor(rows)))


def complete_images(
    key: PRNGKeyArray,
    source: Source,
    x0: Float[Array, "n ..."],
    known: Bool[np.ndarray, "..."],
    *,
    draws: int = 1,
) -> Completion:
    """The unknown pixels of normalized images given the known ones, by the exact conditional mixture.

    Args:
        x0: [n, *shape]; what it holds at unknown pixels is not read.
        known: of the shape of an image; neither all nor none.
        draws: samples an image.
    Raises:
        InputError: For wrong shapes, a mask that leaves nothing to do, and a source without a density.

    >>> import jax, jgmm
    >>> import numpy as np
    >>> from jgmm import completion
    >>> from jgmm.encoder.identity import Identity
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> source = jgmm.unnormalized(gmm, Identity(2), (2,))
    >>> known = np.array([True, False])
    >>> x0 = jax.numpy.array([[2.0, 0.0]])
    >>> completion.complete_images(jax.random.key(0), source, x0, known).mean.tolist()
    [[2.0, 1.0]]
    """
    k = _gmm(source).k
    check(x0.shape[1:] == source.shape, f"expected images of shape {('n', *source.shape)}, got {x0.shape}.")
    check(x0.shape[0] > 0 and jnp.issubdtype(x0.dtype, jnp.floating), f"expected normalized images, got {x0.dtype}.")
    check(known.dtype == bool, f"expected a mask of booleans, got {known.dtype}.")
    check(known.shape == source.shape, f"expected a mask of shape {source.shape}, got {known.shape}.")
    check(known.any() and not known.all(), "the mask must leave some pixels known and some unknown.")
    check(draws >= 0, f"draws must be at least 0, got {draws}.")
    a, b = (_pixels(source, np.flatnonzero(mask)) for mask in (~known, known))
    n = x0.shape[0]
    flat = x0.reshape(n, -1)
    means, y = _means(source), flat[:, b]
    check(bool(jnp.isfinite(y).all()), "the known pixels contain NaN or infinite values.")

    evidence = jnp.stack([_evidence(source, b, jnp.array(i), means, y) for i in range(k)], axis=1)
    r = jax.nn.softmax(evidence, axis=1)
    for_components, for_noise = jax.random.split(key)
    chosen = jax.random.categorical(for_components, jnp.log(r)[:, None], axis=-1, shape=(n, draws))
    noise = jax.random.normal(for_noise, (n, draws, _n_latent(source)), flat.dtype)
    mean, drawn = jnp.zeros((n, a.shape[0]), flat.dtype), jnp.zeros((n, draws, a.shape[0]), flat.dtype)
    needed = np.flatnonzero((r > NEGLIGIBLE).any(axis=0))
    for i in np.union1d(needed, np.unique(chosen)):
        one_mean, one_draws = _given(source, a, b, jnp.array(i), means, y, noise)
        mean = mean + r[:, i, None] * one_mean
        drawn = jnp.where((chosen == i)[:, :, None], one_draws, drawn)

    def whole(part: Array) -> Array:
        lead = part.shape[:-1]
        full = jnp.broadcast_to(flat.reshape(n, *[1] * (len(lead) - 1), -1), (*lead, flat.shape[1]))
        return full.at[..., a].set(part).reshape(*lead, *source.shape)

    return Completion(whole(mean), whole(drawn), r, jax.nn.logsumexp(evidence, axis=1))


@jax.jit
def _evidence(source: Source, b: Array, k: Array, means: Array, y: Array) -> Float[Array, " n"]:
    """log w_k + log p(x_b | k)."""
    factor = lower_factor(_rows(source, b, k)[None])[0]
    white = solve_triangular(factor, (y - means[k, b][None]).T, lower=True)
    log_det = 2 * jnp.log(jnp.diagonal(factor)).sum()
    return _gmm(source).log_weights[k] - 0.5 * (b.shape[0] * LOG_2PI + log_det + (white**2).sum(axis=0))


@jax.jit
def _given(
    source: Source, a: Array, b: Array, k: Array, means: Array, y: Array, noise: Array
) -> tuple[Float[Array, "n a"], Float[Array, "n s a"]]:
    """Mean and draws of x_a given x_b in component k."""
    rows, others = _rows(source, b, k), _rows(source, a, k)
    factor = lower_factor(rows[None])[0]

    def explain(residual: Float[Array, "m b"]) -> Float[Array, "m l"]:
        """Bᵀ (B Bᵀ)⁻¹ residual, and once more what that leaves: the normal equations alone would lose digits."""

        def solve(v: Array) -> Array:
            half = solve_triangular(factor, v.T, lower=True)
            return matmul(solve_triangular(factor, half, lower=True, trans=1).T, rows)

        found = solve(residual)
        return found + solve(residual - matmul(found, rows.T))

    delta = y - means[k, b][None]
    mean = means[k, a][None] + matmul(explain(delta), others.T)
    n, s, latent = noise.shape
    flat = noise.reshape(n * s, latent)
    wanted = jnp.repeat(delta, s, axis=0)
    zeta = flat + explain(wanted - matmul(flat, rows.T))
    return mean, (means[k, a][None] + matmul(zeta, others.T)).reshape(n, s, a.shape[0])


def _rows(source: Source, index: Int[Array, " a"], k: Array) -> Float[Array, "a l"]:
    """J F_k: how the chosen pixels of x0 depend on standard normal numbers in component k."""
    jacobian = source.encoder.jacobian(index) / _std(source)[index][:, None]
    covariance = component_of(_gmm(source).covariance, k)
    codes, residual = jnp.split(jacobian, [_gmm(source).d], axis=1)
    if covariance.axis_aligned:
        codes = codes * jnp.sqrt(covariance.variance())
    else:
        codes = matmul(codes, covariance.factor()[0])
    return jnp.concatenate([codes, residual], axis=1)


@jax.jit
def _means(source: Source) -> Float[Array, "k p"]:
    """The means of the components in x0."""
    pixels = decode_means(source.encoder, _gmm(source))
    return source.from_pixels(pixels.reshape(-1, *source.shape)).reshape(pixels.shape)


def _std(source: Source) -> Float[Array, " p"]:
    return jnp.broadcast_to(source.std, source.shape).ravel()


def _n_latent(source: Source) -> int:
    return _gmm(source).d + source.encoder.n_residual


def _pixels(source: Source, index: np.ndarray) -> Int[Array, " a"]:
    check(
        source.encoder.has_density,
        "this source was fitted with residual 'none': it has no density over pixels. Fit with residual 'spectrum'.",
    )
    p = int(np.prod(source.shape))
    inside = index.ndim == 1 and index.size > 0 and bool(((index >= 0) & (index < p)).all())
    check(inside and len(np.unique(index)) == len(index), f"pixels must be different numbers from 0 to {p - 1}.")
    return jnp.asarray(index, jnp.int32)


def _gmm(source: Source) -> GMM:
    """The mixture of a source, whose pixels given others are a mixture again."""
    if not isinstance(source.gmm, GMM):
        raise InputError(
            "pixels given others have no closed form under a product of block mixtures, whose blocks are of whitened "
            "codes: complete images with a plain mixture, fitted without --blocks."
        )
    return source.gmm
