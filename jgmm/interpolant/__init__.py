"""The exact flow between two Gaussian mixtures: couplings, paths of densities, velocities and transport.

coupling = couple(source, target, plan="optimal", inside="map")
flow = path(coupling, schedule="linear", smoothing="none")
u = velocity(flow, t, x)
"""

from jgmm.interpolant.couplings import Coupling, couple, joint, mw2
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
from jgmm.interpolant.paths import (
    Path,
    divergence,
    drift,
    expected_source,
    expected_target,
    fields,
    log_prob,
    path,
    posterior,
    sample,
    score,
    velocity,
)
from jgmm.interpolant.schedules import Schedule, cosine, linear, polynomial, trigonometric
from jgmm.interpolant.solvers import Transported, diffuse, log_likelihood, transport
from jgmm.interpolant.toy_mixtures import random_covariances, random_means, random_mixture

__all__ = [
    "Coupling",
    "Path",
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
