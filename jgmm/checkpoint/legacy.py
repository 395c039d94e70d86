"""Runs written by versions before 0.2 (format 1): a description of the source in the place of its structure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.covariance.base import identity_of
from jgmm.encoder.base import Encoder
from jgmm.encoder.identity import Identity
from jgmm.encoder.pca import PCA
from jgmm.mixture import GMM
from jgmm.source import Source


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of any format with the parts of today's; `structure` of format 1 remains its description."""
    if config["format"] > 1 or "source" not in config:
        return config
    old = config["source"]
    model = {name: old[name] for name in ("k", "covariance_type", "dtype", "shape")}
    return config | {"model": model | {"d": old["n_codes"]}, "structure": old}


def source_of_description(description: dict[str, Any]) -> Source:
    """The shapes of a source of format 1."""
    d = description
    dtype, n_codes = np.dtype(d["dtype"]), d["n_codes"]

    def build() -> Source:
        encoder: Encoder = Identity(n_codes)
        if d["rotation"]:
            m, p = d["rotation"]
            encoder = PCA(jnp.zeros(p, dtype), jnp.zeros((m, p), dtype), jnp.zeros(m, dtype), n_codes)
        norm = jnp.zeros(d["normalization_shape"], dtype)
        covariance = identity_of(d["covariance_type"])(d["k"], n_codes, dtype)
        gmm = GMM(jnp.zeros(d["k"], dtype), jnp.zeros((d["k"], n_codes), dtype), covariance)
        return Source(gmm, encoder, norm, norm, tuple(d["shape"]))

    return jax.eval_shape(build)


def abstract_of_format_1(config: dict[str, Any]) -> tuple[Any, Callable[[Any], Source]]:
    """What was written, and how a source is made of it: the encoder was called `rotation`."""
    source = source_of_description(config["structure"])
    target = {"gmm": source.gmm, "rotation": source.encoder, "mean": source.mean, "std": source.std}

    def finish(arrays: dict[str, Any]) -> Source:
        gmm: GMM = arrays["gmm"]
        return Source(gmm, arrays["rotation"], arrays["mean"], arrays["std"], source.shape)

    return target, finish
