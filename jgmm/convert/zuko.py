"""The state_dict of a GMM of zuko, and `jgmm.ConditionalGMM`, whose numbers they share in another order.

zuko writes the logits of the weights, the means, the logarithms of all diagonals (less ε) and then of all components
what is below them: in `phi` one after the other, or as the outputs of the network `hyper`.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from jgmm.conditional import ConditionalGMM
from jgmm.covariance.base import blank_of
from jgmm.errors import InputError, check, short

# Those that zuko has.
FAMILIES = ("full", "diag", "spherical", "tied", "tied-diag", "tied-spherical")


def _order(k: int, d: int, rows: int, m: int) -> Int[np.ndarray, " p"]:
    """The place in zuko's order of every number of jgmm's vector: zuko has all diagonals, and then all the rest."""
    head, diagonal = np.arange(k + k * d), min(d, m)
    first = np.arange(rows * diagonal).reshape(rows, diagonal)
    rest = rows * diagonal + np.arange(rows * (m - diagonal)).reshape(rows, m - diagonal)
    return np.concatenate([head, len(head) + np.concatenate([first, rest], axis=1).ravel()])


def from_state_dict(
    state: Any,
    *,
    features: int | None = None,
    components: int | None = None,
    covariance_type: str = "full",
    tied: bool = False,
    epsilon: float = 1e-6,
    activation: Any = nnx.relu,
) -> ConditionalGMM:
    """The model of a state_dict.

    Args:
        state: Arrays by their names: phi.0, phi.1, ..., or hyper.0.weight, hyper.0.bias, ...; or a dictionary that has
            them as its state_dict.
        features: Of a conditional mixture, whose state_dict does not say it; so are components, covariance_type and
            tied.
        epsilon: That the zuko model was made with.
        activation: Likewise.
    Raises:
        InputError: For arrays that do not fit.
    """
    arrays = _numbers(state)
    dtype = jax.dtypes.canonicalize_dtype(next(iter(arrays.values())).dtype)
    options: dict[str, Any] = {"epsilon": epsilon, "activation": activation, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
    if "phi.0" in arrays:
        return _unconditional([arrays[name] for name in sorted(arrays)], options)
    weights = [arrays[name] for name in _layers(arrays)]
    biases = [arrays.get(name.replace("weight", "bias"), np.zeros(0)) for name in _layers(arrays)]
    check(weights, f"expected the state_dict of a zuko GMM, phi.0, ... or hyper.0.weight, ..., got {list(arrays)[:3]}.")
    sizes = [w.shape[:1] for w in weights]
    chained = all(w.ndim == 2 for w in weights) and [b.shape for b in biases] == sizes
    chained = chained and all(a.shape[0] == b.shape[1] for a, b in zip(weights, weights[1:], strict=False))
    check(chained, f"expected layers that follow each other, got weights {[w.shape for w in weights]}.")
    if features is None or components is None:
        raise InputError(
            "the state_dict of a conditional mixture does not say how many features and components it has: say "
            "features, components, covariance_type and tied."
        )
    hidden = [len(w) for w in weights[:-1]]
    model = ConditionalGMM(
        features, weights[0].shape[1], components, covariance_type, tied, hidden_features=hidden, **options
    )
    size = model.bias[...].shape[0]
    check(len(weights[-1]) == size, f"the network has {len(weights[-1])} outputs, such a mixture {size} numbers.")
    order = _order(model.components, model.features, *_rows(model))
    for linear, w, b in zip(model.hidden, weights, biases, strict=False):
        layer: Any = linear
        layer.kernel[...], layer.bias[...] = jnp.asarray(w.T, dtype), jnp.asarray(b, dtype)
    last: Any = model.last
    last.kernel[...] = jnp.asarray(weights[-1].T[:, order], dtype)
    model.bias[...] = jnp.asarray(biases[-1][order], dtype)
    return model


def _numbers(state: Any) -> dict[str, np.ndarray]:
    """The arrays of a state_dict. Raises InputError for anything else."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    check(isinstance(state, dict) and len(state) > 0, f"expected a state_dict, got {short(state)}.")
    floats = all(isinstance(array, np.ndarray) and array.dtype.kind in "fV" for array in state.values())
    check(floats, "expected a state_dict of floating-point tensors by their names.")
    finite = all(np.isfinite(array.astype(np.float64)).all() for array in state.values())
    check(finite, "the state_dict has values that are not finite.")
    return dict(state)


def _unconditional(phi: list[np.ndarray], options: dict[str, Any]) -> ConditionalGMM:
    """A mixture without a context. Raises InputError for arrays that are none."""
    shapes = [array.shape for array in phi]
    k, d = shapes[1] if len(shapes) > 1 and len(shapes[1]) == 2 else (0, 0)
    rows = shapes[2][0] if len(shapes) > 2 and len(shapes[2]) == 2 else 0
    families = {
        "full": [(k,), (k, d), (rows, d), (rows, d * (d - 1) // 2)],
        "diagonal": [(k,), (k, d), (rows, d)],
        "spherical": [(k,), (k, d), (rows, 1)],
    }
    family = next((name for name, expected in families.items() if shapes == expected), None)
    if family is None or rows not in (1, k) or k == 0:
        raise InputError(f"expected phi.0 to phi.2 or phi.3 of a zuko GMM, got arrays of shapes {shapes}.")
    model = ConditionalGMM(d, 0, k, family, rows == 1 and k > 1, **options)
    order = _order(k, d, rows, sum(array.shape[1] for array in phi[2:]))
    model.bias[...] = jnp.asarray(np.concatenate([array.ravel() for array in phi])[order], options["param_dtype"])
    return model


def to_state_dict(model: ConditionalGMM) -> dict[str, np.ndarray]:
    """The state_dict of the same model in zuko, made with the same features, components and ε.

    Raises:
        InputError: For a family that zuko does not have.
    """
    check(model.covariance_type in FAMILIES, f"zuko has no {model.covariance_type} covariances.")
    diagonal = blank_of(model.covariance_type, model.components, model.features).axis_aligned
    k, d = model.components, model.features
    rows, m = _rows(model)
    order = np.argsort(_order(k, d, rows, m))
    bias = np.asarray(model.bias[...])[order]
    if model.last is None:
        shapes = [(k,), (k, d), (rows, min(d, m))] + [(rows, m - d)] * (not diagonal)
        parts = np.split(bias, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        return {f"phi.{i}": part.reshape(shape) for i, (part, shape) in enumerate(zip(parts, shapes, strict=True))}
    layers: list[Any] = list(model.hidden)  # whose biases and kernels flax types as ones that may be missing
    arrays = [(np.asarray(layer.kernel[...]).T, np.asarray(layer.bias[...])) for layer in layers]
    last: Any = model.last
    arrays.append((np.asarray(last.kernel[...])[:, order].T, bias))
    names = [f"hyper.{2 * i}" for i in range(len(arrays))]
    weights = {f"{name}.weight": w for name, (w, _) in zip(names, arrays, strict=True)}
    return weights | {f"{name}.bias": b for name, (_, b) in zip(names, arrays, strict=True)}


def _rows(model: ConditionalGMM) -> tuple[int, int]:
    """How many covariances a mixture has, and how many numbers each."""
    blank = blank_of(model.covariance_type, model.components, model.features)
    return jax.eval_shape(lambda covariance: covariance.unconstrained(0.0), blank).shape


def _layers(state: dict[str, Any]) -> list[str]:
    """The weights of the network, in their order. Raises InputError for layers that are not alternately linear."""
    found = sorted(
        (int(match[1]), name) for name in state if (match := re.fullmatch(r"hyper\.(\d+)\.weight", name)) is not None
    )
    plain = [number for number, _ in found] == list(range(0, 2 * len(found), 2))
    check(plain, "expected linear layers with activations between them, as zuko's MLP has without normalize=True.")
    return [name for _, name in found]
