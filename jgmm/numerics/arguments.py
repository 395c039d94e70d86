"""What users pass, as what is meant, or an InputError that names the argument."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jgmm.errors import InputError, check, check_seed, short
from jgmm.numerics.typing import Features


def is_traced(*values: Any) -> bool:
    """Whether any of them is a placeholder of JAX's, of which nothing but shape and dtype is known."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def as_key(key: Any, name: str = "key") -> PRNGKeyArray:
    """A JAX key; a whole number from 0 is a seed. Raises InputError for anything else."""
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0
        if typed or (key.dtype == jnp.uint32 and key.ndim == 1):
            return key
    whole = hasattr(key, "__index__") and not isinstance(key, bool | jax.core.Tracer) and np.ndim(key) == 0
    check(whole, f"{name} must be a JAX key, such as jax.random.key(0), or a seed, got {short(key)}.")
    return jax.random.key(check_seed(name, key))


def as_floats(name: str, x: Any, dtype: Any = jnp.float32, finite: bool = True) -> Array:
    """Numbers, `finite` unless they need not be, as an array: floating point stays, whole numbers become `dtype`.

    Raises:
        InputError: For anything else. Of traced values only the dtype is seen.
    """
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be numbers, got {short(x)}.") from error
    real = jnp.issubdtype(x.dtype, jnp.number) and not jnp.issubdtype(x.dtype, jnp.complexfloating)
    check(real or x.dtype == bool, f"{name} must be numbers, got {_words(x)}.")
    real_type = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(dtype)
    floating = x.astype(real_type) if isinstance(x, jax.Array) else _on_device(x, real_type)
    if finite and not is_traced(floating):
        check(_is_finite(x, floating), f"{name} must be finite, it has NaN or infinite values.")
    return floating


def _on_device(x: np.ndarray, dtype: np.dtype) -> Array:
    """A copy, as `jnp.asarray` makes, without its program, which is compiled anew for every shape."""
    native = jax.dtypes.canonicalize_dtype(dtype.newbyteorder("="))
    with np.errstate(over="ignore"):
        return jax.device_put(np.array(x, native))


def _is_finite(given: Any, floating: Array) -> bool:
    """Whether numbers are, in the dtype that they are turned into; where NumPy has them, without compiling for it."""
    if isinstance(given, jax.Array) or given.size == 0:
        return bool(jnp.isfinite(floating).all())
    largest = float(jnp.finfo(floating.dtype).max)
    return bool(given.max() <= largest and given.min() >= -largest)


def feature_index(name: str, features: Features, d: int) -> Any:
    """Which of d features are meant: whole numbers, in an array of NumPy's unless they are traced. A boolean mask means
    those where it is true.

    Raises:
        InputError: If a feature is not one of d, or is named twice.
    """
    if isinstance(features, jax.core.Tracer):
        whole = jnp.issubdtype(features.dtype, jnp.integer)
        check(whole, f"{name} under jit must be whole numbers, got {features.dtype}: a mask must not be traced.")
    else:
        try:
            index = np.asarray(features)
        except (TypeError, ValueError):
            raise InputError(f"{name} must be a list of whole numbers, got {short(features)}.") from None
        if index.dtype == bool:
            check(index.shape == (d,), f"a mask must have shape ({d},), got {index.shape}.")
            index = np.flatnonzero(index)
        whole = index.ndim == 1 and index.size > 0 and np.issubdtype(index.dtype, np.integer)
        check(whole, f"{name} must be a non-empty list of whole numbers, got {short(features)}.")
        inside = ((index >= 0) & (index < d)).all()
        check(inside, f"{name} must be from 0 to {d - 1}, got {index.tolist()}.")
        check(np.unique(index).size == index.size, f"a feature is named twice: {index.tolist()}.")
        features = index.astype(np.int32)
    return features


def check_table(name: str, x: Any) -> np.ndarray:
    """A table [N, P] of numbers of any type, on the host. Raises InputError for anything else."""
    try:
        table = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a table of numbers, got {short(x)}.") from error
    numbers = np.issubdtype(table.dtype, np.number) and not np.iscomplexobj(table)
    check(numbers and table.ndim == 2 and table.size > 0, f"{name} must be a table of numbers [n, p], got {short(x)}.")
    return table


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> None:
    """Raise InputError unless a value is of a kind; `words` say which."""
    check(isinstance(value, kind), f"{name} must be {words}, got {short(value)}.")


def _words(x: Any) -> str:
    return "objects or text" if x.dtype.kind in "OSU" else str(x.dtype)
