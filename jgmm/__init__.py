"""Gaussian mixtures of images, and flow-matching sources drawn from them, in JAX.

Public names are imported when first used, so that `import jgmm` and the commands' `--help` cost nothing.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jgmm import completion as completion
    from jgmm import distribution as distribution
    from jgmm import em as em
    from jgmm import interpolant as interpolant
    from jgmm import mixture as mixture
    from jgmm.checkpoint import load as load
    from jgmm.checkpoint import save as save
    from jgmm.checks import InputError as InputError
    from jgmm.conditional import ConditionalGMM as ConditionalGMM
    from jgmm.gradient import fit_gradient as fit_gradient
    from jgmm.mixture import GMM as GMM
    from jgmm.pca import PCA as PCA
    from jgmm.source import Source as Source
    from jgmm.source import log_prob as log_prob
    from jgmm.source import sample as sample

__version__ = "0.1.0"
_PUBLIC = {
    "ConditionalGMM": "jgmm.conditional:ConditionalGMM",
    "GMM": "jgmm.mixture:GMM",
    "InputError": "jgmm.checks:InputError",
    "PCA": "jgmm.pca:PCA",
    "Source": "jgmm.source:Source",
    "completion": "jgmm.completion",
    "distribution": "jgmm.distribution",
    "em": "jgmm.em",
    "fit_gradient": "jgmm.gradient:fit_gradient",
    "interpolant": "jgmm.interpolant",
    "load": "jgmm.checkpoint:load",
    "log_prob": "jgmm.source:log_prob",
    "mixture": "jgmm.mixture",
    "sample": "jgmm.source:sample",
    "save": "jgmm.checkpoint:save",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jgmm' has no attribute {name!r}")
    return pkgutil.resolve_name(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
