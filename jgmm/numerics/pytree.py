"""The pytree decorator."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are the leaves of a JAX pytree; two are equal only if they are the same object.

    A field declared with `dataclasses.field(metadata={"static": True})` is part of the tree's structure. JAX rebuilds
    trees with placeholders for leaves, so rebuilding does not pass through `__init__`.
    """
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(made)
    data = [f.name for f in fields if not f.metadata.get("static")]
    static = [f.name for f in fields if f.metadata.get("static")]

    def flatten_with_keys(tree: T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in data]
        return leaves, tuple(getattr(tree, name) for name in static)

    def flatten(tree: T) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(tree, name) for name in data], tuple(getattr(tree, name) for name in static)

    def unflatten(structure: tuple[Any, ...], leaves: Iterable[Any]) -> T:
        tree = object.__new__(made)
        for name, value in zip((*data, *static), (*leaves, *structure), strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def zeros_of(f: Callable[..., T], *args: Any) -> T:
    """Zeros of the shapes and dtypes that f(*args) would have; f is not computed."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, *args))


class Additive:
    """A pytree that adds field by field, each in its own way."""

    def __add__(self, other: Any) -> Any:
        this: Any = self
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(this)))
