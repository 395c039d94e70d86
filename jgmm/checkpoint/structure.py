"""The structure of a model as JSON: its types by name, its static fields, the shapes of its arrays.

Names are those of the registries, so that reading a description never imports what it names.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.covariance.base import Covariance, Family, identity_of
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.stepwise import Means, Stepwise
from jgmm.encoder.base import Encoder
from jgmm.errors import InputError, check
from jgmm.mixture import GMM
from jgmm.product.labels import LabelTree
from jgmm.product.mixture import ProductMixture
from jgmm.registry import COVARIANCES, ENCODERS
from jgmm.source import Source

PLAIN = {kind.__name__: kind for kind in (GMM, Source, ProductMixture, LabelTree, Stepwise, Means, Prior, Floor)}


def describe(tree: Any, types: Mapping[str, type] = MappingProxyType({})) -> Any:
    """The structure of a model, or of a part of it; its leaves may be shapes. `types` are others, by their names.

    Raises:
        InputError: For a type that has no name in the registries.
    """
    if tree is None:
        return None
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return {"shape": list(tree.shape), "dtype": str(tree.dtype)}
    if isinstance(tree, tuple):
        return [describe(part, types) for part in tree]
    static, arrays = {}, {}
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        if field.metadata.get("static"):
            static[field.name] = value
        else:
            arrays[field.name] = describe(value, types)
    return {"type": _name_of(tree, types), "static": static, "fields": arrays}


def abstract(description: Any, types: Mapping[str, type] = MappingProxyType({})) -> Any:
    """A model of the structure described, with shapes and dtypes in the place of arrays; `types` as for `describe`.

    Raises:
        InputError: For a name that no registry knows.
    """
    return jax.eval_shape(lambda: _build(description, types))


def _build(description: Any, types: Mapping[str, type]) -> Any:
    if description is None:
        return None
    if isinstance(description, list):
        return tuple(_build(part, types) for part in description)
    if "type" not in description:
        return jnp.zeros(tuple(description["shape"]), np.dtype(description["dtype"]))
    static = {name: _hashable(v) for name, v in description["static"].items()}
    arrays = {name: _build(part, types) for name, part in description["fields"].items()}
    return _type_of(description["type"], types)(**arrays, **static)


def _hashable(value: Any) -> Any:
    return tuple(_hashable(part) for part in value) if isinstance(value, list) else value


def abstract_gmm(k: int, d: int, family: Family, dtype: Any) -> GMM:
    """The shapes of a mixture of a family."""

    def build() -> GMM:
        covariance = identity_of(family)(k, d, dtype)
        return GMM(jnp.zeros(k, dtype), jnp.zeros((k, d), dtype), covariance)

    return jax.eval_shape(build)


def _name_of(tree: Any, types: Mapping[str, type]) -> str:
    if type(tree) in (*PLAIN.values(), *types.values()):
        return type(tree).__name__
    registry = COVARIANCES if isinstance(tree, Covariance) else ENCODERS
    known = isinstance(tree, Covariance | Encoder) and tree.name in registry
    if not known:
        name = getattr(tree, "name", type(tree).__name__)
        raise InputError(
            f"{type(tree).__name__} cannot be saved under the name {name!r}, which nothing is registered for: call "
            f"jgmm.registry.{'COVARIANCES' if registry is COVARIANCES else 'ENCODERS'}.register({name!r}, ...) first, "
            "and before loading."
        )
    return tree.name


def _type_of(name: str, types: Mapping[str, type]) -> type:
    plain = {**PLAIN, **types}
    if name in plain:
        return plain[name]
    check(
        name in COVARIANCES or name in ENCODERS,
        f"nothing is registered under the name {name!r}: register the covariance family or the encoder that the model "
        "was saved with (jgmm.registry).",
    )
    if name in ENCODERS:
        return ENCODERS[name]
    found = COVARIANCES[name]
    if isinstance(found, type):
        return found
    return type(jax.eval_shape(lambda: identity_of(found)(1, 1)))
