"""Every extension point of the library, one table each.

A new member is one new function or class elsewhere and one line here; the command line, the
checkpoints and the tests read these tables. Entries are import paths, resolved when first used, so
that listing the names (as `--help` does) imports nothing.
"""

import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from jgmm.checks import unknown


class Table(Mapping[str, Any]):
    """A mapping from names to objects given as "module:attribute"; `aliases` are accepted on look-up only."""

    def __init__(self, kind: str, entries: dict[str, str], aliases: dict[str, str] | None = None):
        self.kind, self.entries, self.aliases = kind, entries, aliases or {}

    def canonical(self, name: str) -> str:
        """The table's own spelling of `name`. Raises InputError, with a suggestion, for an unknown one."""
        name = self.aliases.get(name, name)
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries)
        return name

    def __getitem__(self, name: str) -> Any:
        return pkgutil.resolve_name(self.entries[self.canonical(name)])

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


# load(data_dir) -> Images
DATASETS = Table(
    "data set",
    {
        "cifar10": "jgmm.data.cifar:load",
        "photos": "jgmm.data.photos:load",
        "digits": "jgmm.data.digits:load",
    },
)

# identity(k, d, dtype) -> Covariance, all components the identity
COVARIANCES = Table(
    "covariance type",
    {
        "diag": "jgmm.covariance.diag:Diag.identity",
        "full": "jgmm.covariance.full:Full.identity",
        "spherical": "jgmm.covariance.spherical:Spherical.identity",
        "tied": "jgmm.covariance.tied:tied_full",
        "tied-diag": "jgmm.covariance.tied:tied_diag",
        "tied-spherical": "jgmm.covariance.tied:tied_spherical",
    },
    aliases={"diagonal": "diag", "tied-full": "tied", "tied-diagonal": "tied-diag"},
)

# centres(key, x, k, metric, chunk_size) -> [k, d]
INITIALISERS = Table(
    "initialiser",
    {
        "kmeans": "jgmm.init:kmeans",
        "k-means++": "jgmm.init:kmeans_plusplus",
        "random": "jgmm.init:random",
    },
    aliases={"k-means": "kmeans", "kmeans++": "k-means++"},
)

# variances(dropped) -> the variances the dropped principal directions keep, or None for no density there
RESIDUALS = Table(
    "residual",
    {
        "spectrum": "jgmm.pca:keep_spectrum",
        "isotropic": "jgmm.pca:keep_mean",
        "none": "jgmm.pca:keep_none",
    },
)

# axes(shape) -> the axes of an image that share one mean and one standard deviation, or None for no normalisation
NORMALISATIONS = Table(
    "normalisation",
    {
        "channel": "jgmm.source:channel_axes",
        "pixel": "jgmm.source:pixel_axes",
        "scalar": "jgmm.source:scalar_axes",
        "none": "jgmm.source:no_axes",
    },
)

# plan(weights0, weights1, cost, **options) -> weights [K0, K1] of pairs of components; cost() their squared distances
PLANS = Table(
    "plan",
    {
        "independent": "jgmm.interpolant.plans:independent",
        "optimal": "jgmm.interpolant.plans:optimal",
        "entropic": "jgmm.interpolant.plans:entropic",
        "matched": "jgmm.interpolant.plans:matched",
    },
    aliases={"mw2": "optimal", "sinkhorn": "entropic"},
)

# schedule() -> Schedule
SCHEDULES = Table(
    "schedule",
    {
        "linear": "jgmm.interpolant.schedules:linear",
        "trigonometric": "jgmm.interpolant.schedules:trigonometric",
        "polynomial": "jgmm.interpolant.schedules:polynomial",
        "cosine": "jgmm.interpolant.schedules:cosine",
    },
)

# smoothing(t) -> γ_t²
SMOOTHINGS = Table(
    "smoothing",
    {
        "none": "jgmm.interpolant.schedules:none",
        "brownian": "jgmm.interpolant.schedules:brownian",
        "sine": "jgmm.interpolant.schedules:sine",
    },
    aliases={"sin2": "sine"},
)
