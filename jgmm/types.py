"""Array aliases and the pytree decorator."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are the leaves of a JAX pytree.

    A field declared with `dataclasses.field(metadata={"static": True})` is part of the tree's structure.
    """
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))
