"""Which family a covariance is of: a name where it has one, and else an object that stands for it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jgmm.covariance.base import Covariance, Family, identity_of
from jgmm.covariance.tied import TiedFamily
from jgmm.registry import COVARIANCES


def named(covariance_type: Family, tied: bool) -> Family:
    """The canonical name of a family, tied or not, or the object where it has none."""
    if isinstance(covariance_type, str):
        name = COVARIANCES.canonical(covariance_type)
        return COVARIANCES.canonical(f"tied-{name}") if tied else name
    found = COVARIANCES.resolve(covariance_type)
    return TiedFamily(found) if tied else found


def family_of(covariance: Covariance, k: int, d: int) -> Family:
    """The name of the family of these covariances, or an object that stands for it where it has none."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: covariance))
    name = covariance.name
    if name in COVARIANCES and same_family(covariance, jax.eval_shape(lambda: identity_of(name)(k, d))):
        return name
    return _Structure(tree, tuple(leaves))


def same_family(a: Covariance, b: Covariance) -> bool:
    """Whether two covariances of as many components and features are of one family, and of one rank; leaves may be
    shapes."""
    trees: list[Any] = [jax.tree.structure(covariance) for covariance in (a, b)]
    shapes = [[leaf.shape for leaf in jax.tree.leaves(covariance)] for covariance in (a, b)]
    return bool(trees[0] == trees[1]) and shapes[0] == shapes[1]


@dataclass(frozen=True)
class _Structure:
    """The family of covariances at hand that has no name; only its structure is read."""

    tree: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, k: int, d: int, dtype: Any = None) -> Covariance:
        return jax.tree.unflatten(self.tree, [jnp.zeros(leaf.shape, leaf.dtype) for leaf in self.leaves])
