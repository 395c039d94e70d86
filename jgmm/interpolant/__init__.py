"""The exact flow between two Gaussian mixtures: couplings, paths of densities, velocities and transport.

>>> import jax, jgmm
>>> from jgmm import interpolant as ip
>>> key = jax.random.key(0)
>>> source = jgmm.GMM.from_parameters([1.0], [[0.0, 0.0]], [1.0], "spherical")
>>> target = jgmm.GMM.from_parameters([0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [0.25, 0.25], "spherical")
>>> flow = ip.path(ip.couple(source, target))
>>> x = jax.numpy.array([[1.0, 0.0]])
>>> ip.velocity(flow, 0.5, x).shape
(1, 2)

The examples of this package go on from this one.
"""

from jgmm.interpolant.couplings import Coupling, joint, mw2
from jgmm.interpolant.diagnostics import (
    continuity_residual,
    effective_components,
    fisher_information,
    kinetic_energy,
    pair_cost,
    regularity_constants,
    straightness,
)
from jgmm.interpolant.gaussians import bures, squared_wasserstein
from jgmm.interpolant.making import couple, path
from jgmm.interpolant.paths import (
    AnyPath,
    Path,
    divergence,
    drift,
    expected_source,
    expected_target,
    fields,
    log_prob,
    posterior,
    sample,
    score,
    velocity,
)
from jgmm.interpolant.products import ProductCoupling, ProductPath
from jgmm.interpolant.schedules import Schedule, cosine, linear, polynomial, trigonometric
from jgmm.interpolant.solvers import Transported, diffuse, log_likelihood, transport
from jgmm.interpolant.toy_mixtures import random_covariances, random_means, random_mixture

__all__ = [
    "Coupling",
    "AnyPath",
    "Path",
    "ProductCoupling",
    "ProductPath",
    "Schedule",
    "Transported",
    "bures",
    "continuity_residual",
    "cosine",
    "couple",
    "diffuse",
    "divergence",
    "drift",
    "effective_components",
    "expected_source",
    "expected_target",
    "fields",
    "fisher_information",
    "regularity_constants",
    "joint",
    "kinetic_energy",
    "linear",
    "log_likelihood",
    "log_prob",
    "mw2",
    "pair_cost",
    "path",
    "polynomial",
    "posterior",
    "random_covariances",
    "random_means",
    "random_mixture",
    "sample",
    "score",
    "squared_wasserstein",
    "straightness",
    "transport",
    "trigonometric",
    "velocity",
]
