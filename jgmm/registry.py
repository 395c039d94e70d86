"""Every extension point of the library: names and the objects they stand for.

A new member is one new function or class elsewhere and one line here; the command line, the checkpoints and the tests
read these registries. Entries are import paths, resolved when first used, so that listing the names (as `--help` does)
imports nothing. Wherever a function of the library takes a name it takes an object as well, and `Registry.register`
gives an object of your own a name that the command line and `jgmm.load` understand:

>>> from jgmm.registry import INITIALIZERS
>>> def first_rows(key, x, k, metric):
...     return x[:k]
>>> INITIALIZERS.register("first-rows", first_rows)
>>> INITIALIZERS.resolve("first-rows") is INITIALIZERS.resolve(first_rows) is first_rows
True
>>> INITIALIZERS.unregister("first-rows")
"""

import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from jgmm.errors import check, short, unknown


class Registry(Mapping[str, Any]):
    """A mapping from names to objects given as "module:attribute"; `aliases` are accepted on look-up only."""

    def __init__(self, kind: str, entries: dict[str, Any], aliases: dict[str, str] | None = None):
        self.kind, self.entries, self.aliases = kind, entries, aliases or {}

    def canonical(self, name: str) -> str:
        """The registry's own spelling of `name`. Raises InputError, with a suggestion, for an unknown one."""
        name = self.aliases.get(name, name)
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries)
        return name

    def resolve(self, choice: Any) -> Any:
        """The object that a name stands for; anything but a string is taken as the object itself.

        Raises:
            InputError: For an unknown name, and for an object that cannot be called.
        """
        if isinstance(choice, str):
            return self[choice]
        check(callable(choice), f"expected a {self.kind}, one of {', '.join(self)} or an object, got {short(choice)}.")
        return choice

    def name_of(self, choice: Any) -> str | None:
        """The name under which an object stands here; None where there is none."""
        return next((name for name in self if self[name] == choice), None)

    def register(self, name: str, member: Any) -> None:
        """Give an object a name. Raises InputError for a name that is taken by another object."""
        free = name not in self or self[name] == member
        check(free, f"the {self.kind} {name!r} is taken: choose another name.")
        self.entries[name] = member

    def unregister(self, name: str) -> None:
        """Forget a name given by `register`."""
        self.entries.pop(self.canonical(name))

    def __getitem__(self, name: str) -> Any:
        entry = self.entries[self.canonical(name)]
        return pkgutil.resolve_name(entry) if isinstance(entry, str) else entry

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


# load(data_dir) -> Images
DATASETS = Registry(
    "data set",
    {
        "cifar10": "jgmm.data.cifar:load",
        "photos": "jgmm.data.photos:load",
        "digits": "jgmm.data.digits:load",
    },
)

# a convention of the numbers of images (`jgmm.data.pixels.Convention`); the first that holds their range is taken
PIXELS = Registry(
    "convention of pixels",
    {
        "0..1": "jgmm.data.pixels:unit",
        "signed": "jgmm.data.pixels:signed",
        "0..255": "jgmm.data.pixels:eight_bit",
        "raw": "jgmm.data.pixels:raw",
    },
)

# identity(k, d, dtype) -> Covariance, all components the identity; or a class with such a method
COVARIANCES = Registry(
    "covariance type",
    {
        "diag": "jgmm.covariance.diag:Diag",
        "full": "jgmm.covariance.full:Full",
        "spherical": "jgmm.covariance.spherical:Spherical",
        "tied": "jgmm.covariance.tied:tied_full",
        "tied-diag": "jgmm.covariance.tied:tied_diag",
        "tied-spherical": "jgmm.covariance.tied:tied_spherical",
        "low-rank": "jgmm.covariance.lowrank:LowRank",
        "tied-low-rank": "jgmm.covariance.lowrank:tied_low_rank",
    },
    aliases={"diagonal": "diag", "tied-full": "tied", "tied-diagonal": "tied-diag"},
)

# fit(x) -> Encoder, fitted to rows x [N, D]; a class has it as `fit`
ENCODERS = Registry(
    "encoder",
    {
        "identity": "jgmm.encoder.identity:Identity",
        "standardize": "jgmm.encoder.standardize:Standardize",
        "robust": "jgmm.encoder.standardize:robust",
        "pca": "jgmm.encoder.pca:PCA",
        "zca": "jgmm.encoder.zca:ZCA",
        "rotated-pca": "jgmm.encoder.rotated:RotatedPCA",
    },
)

# atoms(block) -> [block², block²], the orthonormal patterns of a block in rows, or None for the principal axes
BASES = Registry(
    "basis",
    {
        "pca": "jgmm.encoder.bases:principal",
        "zca": "jgmm.encoder.bases:pixels",
        "cosine": "jgmm.encoder.bases:cosine",
        "haar": "jgmm.encoder.bases:haar",
        "learned": "jgmm.encoder.bases:learned",
    },
    aliases={"principal": "pca", "dct": "cosine"},
)

# (key, x, k, metric) -> k centers [k, d], or the cluster of every row [n]
INITIALIZERS = Registry(
    "initializer",
    {
        "kmeans": "jgmm.em.initializers:kmeans",
        "log-energy": "jgmm.em.initializers:log_energy",
        "k-means++": "jgmm.em.initializers:kmeans_plusplus",
        "random": "jgmm.em.initializers:random",
    },
    aliases={"k-means": "kmeans", "kmeans++": "k-means++"},
)

# (x, strength or None) -> Prior, or a function of the mixture that EM starts from and its counts that returns one
PRIORS = Registry(
    "prior",
    {
        "hierarchical": "jgmm.em.hierarchy:hierarchical",
        "data": "jgmm.covariance.prior:around_data",
    },
)

# variances(dropped) -> the variances the dropped principal directions keep, or None for no density there
RESIDUALS = Registry(
    "residual",
    {
        "spectrum": "jgmm.encoder.pca:keep_spectrum",
        "isotropic": "jgmm.encoder.pca:keep_mean",
        "none": "jgmm.encoder.pca:keep_none",
    },
)

# axes(shape) -> the axes of an image that share one mean and one standard deviation, or None for no normalization
NORMALIZATIONS = Registry(
    "normalization",
    {
        "channel": "jgmm.source:channel_axes",
        "pixel": "jgmm.source:pixel_axes",
        "scalar": "jgmm.source:scalar_axes",
        "none": "jgmm.source:no_axes",
    },
)

# score(fit) of one fit of a sweep (`jgmm.metrics.information.Comparison`); the greatest is best
CRITERIA = Registry(
    "criterion",
    {
        "held-out": "jgmm.metrics.information:by_held_out",
        "bic": "jgmm.metrics.information:by_bic",
        "aic": "jgmm.metrics.information:by_aic",
    },
)

# activation(x), element by element, in the networks of conditional mixtures
ACTIVATIONS = Registry(
    "activation",
    {name: f"jax.nn:{name}" for name in ("relu", "gelu", "silu", "elu", "selu", "softplus", "sigmoid", "leaky_relu")}
    | {"tanh": "jax.numpy:tanh"},
)

# plan(weights0, weights1, cost, **options) -> weights [K0, K1] of pairs of components; cost() their squared distances
PLANS = Registry(
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
SCHEDULES = Registry(
    "schedule",
    {
        "linear": "jgmm.interpolant.schedules:linear",
        "trigonometric": "jgmm.interpolant.schedules:trigonometric",
        "polynomial": "jgmm.interpolant.schedules:polynomial",
        "cosine": "jgmm.interpolant.schedules:cosine",
    },
)

# smoothing(t) -> γ_t²
SMOOTHINGS = Registry(
    "smoothing",
    {
        "none": "jgmm.interpolant.schedules:none",
        "brownian": "jgmm.interpolant.schedules:brownian",
        "sine": "jgmm.interpolant.schedules:sine",
    },
    aliases={"sin2": "sine"},
)

# method() -> jgmm.interpolant.solvers.Method, a solver of diffrax and what a step of it costs
SOLVERS = Registry(
    "solver",
    {
        "euler": "jgmm.interpolant.solvers:euler",
        "midpoint": "jgmm.interpolant.solvers:midpoint",
        "heun": "jgmm.interpolant.solvers:heun",
        "dopri5": "jgmm.interpolant.solvers:dopri5",
    },
)
