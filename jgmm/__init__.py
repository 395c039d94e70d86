"""Gaussian mixtures of images, and flow-matching sources drawn from them, in JAX.

Public names are imported when first used, so that `import jgmm` and the commands' `--help` cost nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jgmm import completion as completion
    from jgmm import interpolant as interpolant
    from jgmm.checkpoint.models import load as load
    from jgmm.checkpoint.models import save as save
    from jgmm.conditional import ConditionalGMM as ConditionalGMM
    from jgmm.covariance.lowrank import low_rank as low_rank
    from jgmm.covariance.prior import Floor as Floor
    from jgmm.covariance.prior import Prior as Prior
    from jgmm.data.streams import stream as stream
    from jgmm.em.estimator import GaussianMixture as GaussianMixture
    from jgmm.em.fitting import EMFit as EMFit
    from jgmm.em.fitting import fit_em as fit_em
    from jgmm.em.missing import impute as impute
    from jgmm.em.stepwise import Stepwise as Stepwise
    from jgmm.em.stepwise import partial_fit as partial_fit
    from jgmm.encoder.pca import PCA as PCA
    from jgmm.errors import InputError as InputError
    from jgmm.gradient import fit_gradient as fit_gradient
    from jgmm.mixture import GMM as GMM
    from jgmm.product.fitting import ProductFit as ProductFit
    from jgmm.product.fitting import fit_product as fit_product
    from jgmm.product.mixture import ProductMixture as ProductMixture
    from jgmm.source import Source as Source
    from jgmm.source import log_prob as log_prob
    from jgmm.source import normalize as normalize
    from jgmm.source import sample as sample
    from jgmm.source import unnormalized as unnormalized

__version__ = "0.2.0"
_PUBLIC = {
    "ConditionalGMM": "jgmm.conditional:ConditionalGMM",
    "EMFit": "jgmm.em.fitting:EMFit",
    "Floor": "jgmm.covariance.prior:Floor",
    "GMM": "jgmm.mixture:GMM",
    "GaussianMixture": "jgmm.em.estimator:GaussianMixture",
    "InputError": "jgmm.errors:InputError",
    "PCA": "jgmm.encoder.pca:PCA",
    "Prior": "jgmm.covariance.prior:Prior",
    "ProductFit": "jgmm.product.fitting:ProductFit",
    "ProductMixture": "jgmm.product.mixture:ProductMixture",
    "Source": "jgmm.source:Source",
    "Stepwise": "jgmm.em.stepwise:Stepwise",
    "completion": "jgmm.completion",
    "fit_em": "jgmm.em.fitting:fit_em",
    "fit_gradient": "jgmm.gradient:fit_gradient",
    "fit_product": "jgmm.product.fitting:fit_product",
    "impute": "jgmm.em.missing:impute",
    "interpolant": "jgmm.interpolant",
    "load": "jgmm.checkpoint.models:load",
    "log_prob": "jgmm.source:log_prob",
    "low_rank": "jgmm.covariance.lowrank:low_rank",
    "normalize": "jgmm.source:normalize",
    "partial_fit": "jgmm.em.stepwise:partial_fit",
    "sample": "jgmm.source:sample",
    "save": "jgmm.checkpoint.models:save",
    "stream": "jgmm.data.streams:stream",
    "unnormalized": "jgmm.source:unnormalized",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jgmm' has no attribute {name!r}")
    import pkgutil

    return pkgutil.resolve_name(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])
