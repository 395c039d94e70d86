"""Pairs of mixtures in the plane, and couplings of them, that the tests of the interpolant share."""

import jax
import jax.numpy as jnp
import numpy as np

from jgmm import interpolant as ip
from jgmm.covariance.diag import Diag
from jgmm.mixture import GMM

D = 2


def ends(family, k=2, d=D, seed=0):
    """Two mixtures of k components."""
    keys = jax.random.split(jax.random.key(seed), 4)
    gmms = [ip.random_mixture(key, k, d, scale=2.0) for key in keys[:2]]
    if family == "full":
        return gmms
    variances = [jnp.exp(jax.random.normal(key, (k, d))) for key in keys[2:]]
    return [GMM(gmm.log_weights, gmm.means, Diag(v)) for gmm, v in zip(gmms, variances, strict=True)]


def joint_blocks(count=4, d=D, seed=1, rank=None):
    """Joint covariances of (x0, x1); singular with a rank below 2d."""
    a = np.random.default_rng(seed).normal(size=(count, 2 * d, rank or 3 * d))
    s = jnp.asarray(a @ a.swapaxes(1, 2) / a.shape[2])
    return s[:, :d, :d], s[:, :d, d:], s[:, d:, d:]


def couplings(names):
    """Couplings of four pairs of components each, by name."""
    makers = {
        "diagonal": lambda: ip.couple(*ends("diag")),
        "diagonal entropic": lambda: ip.couple(*ends("diag"), "entropic"),
        "diagonal map": lambda: ip.couple(*ends("diag"), "independent", "map"),
        "diagonal entropic map": lambda: ip.couple(*ends("diag"), "entropic", "map"),
        "full": lambda: ip.couple(*ends("full")),
        "full entropic": lambda: ip.couple(*ends("full"), "entropic", epsilon=0.5),
        "full map": lambda: ip.couple(*ends("full"), "independent", "map"),
        "joint": lambda: ip.joint(
            jnp.array([0.1, 0.2, 0.3, 0.4]),
            jnp.concatenate([ends("full")[0].means] * 2),
            jnp.concatenate([ends("full")[1].means] * 2),
            *joint_blocks(),
        ),
    }
    return {name: makers[name]() for name in names}
