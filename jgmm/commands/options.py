"""The options of `python -m jgmm.fit` and `python -m jgmm.sweep`. Imports nothing heavy: `--help` reads this file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jgmm.errors import InputError, check, check_count, check_number, check_seed, check_share
from jgmm.registry import (
    BASES,
    COVARIANCES,
    CRITERIA,
    DATASETS,
    INITIALIZERS,
    NORMALIZATIONS,
    PIXELS,
    PRIORS,
    RESIDUALS,
    Registry,
)

# Numbers above this are not counts of anything.
MOST = 2**40


def one_of(registry: Registry, *more: str) -> object:
    """How the command line shows the names of a registry, and more that are none of them."""
    return tyro.conf.arg(metavar="{" + "|".join([*more, *registry]) + "}")


@dataclass(frozen=True)
class Common:
    """What every fit needs to know beside its mixture: the data, the codes, EM, the normalization."""

    dataset: Annotated[str, one_of(DATASETS)] = "cifar10"
    """The data set to fit."""
    data: Path | None = None
    """A file of your own data instead: .npy or .npz, of shape [N, D] or [N, H, W, C]; or what is read from disk in
    every pass: .zarr, .parquet, .array_record, or a folder of files of one kind."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Read a .npy file from disk in every pass, and do not hold it in memory [default: from 512 MiB]."""
    weights: Path | None = None
    """A .npy file of how often each example of --data or --dataset counts: N numbers from 0 [default: once]."""
    pixels: Annotated[str, one_of(PIXELS, "auto")] = "auto"
    """The convention of a file of images in floating point: 0..1, signed ([-1, 1]), 0..255, or raw, to take it as it is
    [default: its range tells]."""
    data_dir: Annotated[Path | None, tyro.conf.arg(aliases=("--data-root",))] = None
    """The folder that holds the CIFAR-10 files [default: $JGMM_DATA, then TensorFlow Datasets]."""
    size: int | None = None
    """The side that square images are averaged down to [default: their own]."""
    augmentation: bool = False
    """Add the mirror image of every image to the data."""
    dequantize: bool = True
    """Add uniform noise as wide as one of their 256 steps to 8-bit images, as bits per dimension suppose."""
    holdout: float = 0.0
    """The share of the images that is held out of the fit and evaluated at the end."""

    n_pca: Annotated[str, tyro.conf.arg(metavar="{all|none|D}")] = "all"
    """The number of principal components kept as codes; with none the pixels themselves are fitted."""
    residual: Annotated[str, one_of(RESIDUALS)] = "spectrum"
    """The variance of the principal directions that are not kept; with none they are lost, and so is the density."""
    scatter: Literal["auto", "sample", "robust"] = "auto"
    """The scatter that the principal components are those of: the covariance (sample), or one in which every image
    counts in units of its own contrast [default: robust for images of which all components are kept, else sample]."""
    symmetric: bool = True
    """Take an image and its mirror image as equally likely in that scatter, where all components are kept. Those of the
    data set digits are known to be of another kind; say --no-symmetric for a file of the like."""

    basis: Annotated[str, one_of(BASES, "auto")] = "auto"
    """The axes that the whitened principal components are turned to: their own (pca), pixels (zca), the cosines or Haar
    wavelets of blocks, or axes of blocks that are learned [default: cosine for images of which all components are kept,
    else pca]."""
    block: int | None = None
    """The side of the blocks of a local basis, in pixels [default: the largest up to 8, and a quarter of a side, that
    divides both sides]."""

    init: Annotated[str, one_of(INITIALIZERS, "auto")] = "auto"
    """The method that finds where EM starts [default: log-energy in a local basis, else kmeans]."""
    n_init: int = 1
    """The number of starts of EM, of which the best is kept."""
    max_iter: int = 100
    """The largest number of iterations of EM."""
    tol: float | None = None
    """EM stops when the objective changes by less than this, in nats per image [default: 1e-5 for every code, with
    --blocks 1e-4, and at least 1e-3]."""
    reg_covar: float = 1e-6
    """The number added to every variance."""
    relative_floor: float | None = None
    """The share of its mean variance added to a full covariance; 0 is as in scikit-learn [default: D eps]."""
    prior: Annotated[str, one_of(PRIORS, "auto")] = "auto"
    """The prior on components: towards what all of them have in common (hierarchical), or the variance of the data
    [default: data for --blocks, else hierarchical]."""
    prior_strength: float | None = None
    """The number of images that the prior on each covariance is worth; 0 is maximum likelihood [default: learned by the
    hierarchical prior, else 1]."""
    min_count: float = 10.0
    """Components that explain fewer images, or blocks of images, than this are given up for halves of the largest ones;
    0 never does."""
    mesh: str | None = None
    """The devices to work on, such as data=4,component=2: rows are cut over the one axis, components over the other
    [default: rows over all devices]."""
    distributed: bool = False
    """Join the other processes of a TPU pod, of SLURM, or of $JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and
    $JAX_PROCESS_ID, which all run this command: every one takes its part of the examples."""
    chunk_size: int | None = None
    """The number of rows taken at a time [default: chosen by the dimensions]."""
    precision: Literal["highest", "high", "default"] = "highest"
    """The precision of matrix products on GPUs and TPUs."""
    dtype: Literal["float32", "float64"] = "float32"
    """The floating-point type of the computation and the checkpoint."""

    normalize: Annotated[str, one_of(NORMALIZATIONS)] = "channel"
    """What shares one mean and standard deviation in x0."""
    n_stat_samples: int | None = None
    """The number of samples the normalization is estimated from [default: none, it is computed exactly]."""
    batch_size: int = 128
    """The number of samples drawn at a time for --n-stat-samples."""
    seed: Annotated[int, tyro.conf.arg(aliases=("--random-state",))] = 0
    """The seed of all random numbers."""

    @property
    def data_name(self) -> str:
        """The name of the data set or of the file."""
        return self.data.stem if self.data else self.dataset

    @property
    def side(self) -> int | None:
        """The side of the blocks of a local basis, where one is asked for."""
        return self.block

    @property
    def n_principal(self) -> int | None:
        """--n-pca as a number; None for all and for none."""
        if self.n_pca in ("all", "none"):
            return None
        try:
            return int(self.n_pca)
        except ValueError:
            raise InputError(f"--n-pca expects all, none or a number, got {self.n_pca!r}.") from None

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the data are seen."""
        check_names(self, dataset=DATASETS, pixels=PIXELS, basis=BASES)
        check_names(self, init=INITIALIZERS, prior=PRIORS, residual=RESIDUALS, normalize=NORMALIZATIONS)
        check_counts(self, n_init=1, max_iter=1, block=1, chunk_size=1, batch_size=1, n_stat_samples=2)
        if self.n_principal is not None:
            check_count("--n-pca", self.n_principal)
        for name in ("tol", "reg_covar", "relative_floor", "prior_strength", "min_count"):
            if getattr(self, name) is not None:
                check_number(flag(name), getattr(self, name), least=0)
        turned = self.basis not in ("auto", "pca")
        check(
            self.n_pca != "none" or not turned,
            f"--basis {self.basis} turns the principal components: drop --n-pca none.",
        )
        check(
            self.scatter != "robust" or self.n_pca == "all",
            "--scatter robust whitens all components: leave --n-pca out.",
        )
        check_share("--holdout", self.holdout)
        check(
            self.basis != "learned" or (not self.distributed and self.weights is None and self.stream != "always"),
            "--basis learned sees all images at once: leave --distributed, --weights and --stream out.",
        )
        check_seed("--seed", self.seed)
        check_one_source(self)


@dataclass(frozen=True)
class _Mixture:
    k: Annotated[int, tyro.conf.arg(aliases=("--n-components",))] = 100
    """The number of components."""
    covariance_type: Annotated[str, one_of(COVARIANCES, "auto")] = "auto"
    """The family of the covariances, in the basis that --basis chooses [default: full for --blocks, else diag]."""
    rank: int | None = None
    """The number of columns of low-rank covariances [default: 8, and at most a third of the features]."""
    scales: int = 1
    """The number of scales at which every one of them is, about its own covariance: EM goes on with as many times K
    components."""
    blocks: int | None = None
    """The side of the blocks, in pixels, whose components are chosen apart: a product of block mixtures, which share
    their K Gaussians [default: one mixture of whole images]."""
    classes: tuple[int, ...] = ()
    """The number of classes of images above the labels of blocks; several numbers are those of a tree of classes, from
    the whole image down to 2x2 blocks [default: none, labels are independent]."""


@dataclass(frozen=True)
class Options(Common, _Mixture):
    """Fit a Gaussian mixture to images and write it, with pictures, to a run folder."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=("--output-dir",))] = None
    """The run folder [default: runs/<dataset>-k<K>]."""
    resume: bool = False
    """Go on with the interrupted fit in the run folder."""
    minibatch: int | None = None
    """Learn from so many examples at a time, by stepwise EM; --max-iter counts passes over all of them, and --min-count
    and --chunk-size say nothing [default: every iteration sees all examples]."""
    init_from: Path | None = None
    """Start from the mixture, and the principal components, of another run folder."""

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        return self.out or Path("runs") / f"{self.data_name}-k{self.k}"

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the data are seen."""
        super().check()
        check_names(self, covariance_type=COVARIANCES)
        check_counts(self, k=1, rank=1, scales=1, blocks=1, minibatch=1)
        named = self.stream != "always" or self.data is not None or self.resume
        check(named, "--stream is of --data: name what to stream.")
        whole = self.blocks is None and not self.resume and self.init_from is None and self.n_init == 1
        check(
            self.minibatch is None or whole,
            "--minibatch begins from its first batch and cannot go on: leave --blocks, --resume, --init-from and "
            "--n-init out.",
        )
        check(self.blocks is None or not self.distributed, "--blocks fits on one device: leave --distributed out.")
        check(self.minibatch is None or self.minibatch >= self.k, f"--minibatch must be at least --k {self.k}.")
        for n in self.classes:
            check_count("--classes", n, most=MOST)
        check(
            self.blocks is not None or not self.classes, "--classes are those of blocks: give their side by --blocks."
        )
        turned = self.basis == "auto" or BASES.canonical(self.basis) not in ("pca", "learned")
        whole = self.n_pca == "all" and turned and self.block is None
        check(
            self.blocks is None or whole,
            "--blocks takes all components in a basis of those blocks: leave --n-pca and --block out, and choose "
            "--basis cosine, haar or zca.",
        )

    @property
    def family(self) -> str:
        """The name of the family of the covariances."""
        default = "diag" if self.blocks is None else "full"
        return default if self.covariance_type == "auto" else COVARIANCES.canonical(self.covariance_type)

    @property
    def side(self) -> int | None:
        return self.block if self.blocks is None else self.blocks

    def to_json(self) -> dict[str, object]:
        """The options as JSON values."""
        return to_json(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Options":
        """The inverse of `to_json`."""
        paths = ("out", "data", "data_dir", "init_from", "weights")
        before: dict[str, Any] = {"pixels": "raw", "basis": "pca", "prior": "data", "min_count": 0.0}
        before |= {"scatter": "sample", "symmetric": False, "stream": "never"}
        values = before | values  # versions before these options did as they say
        values["classes"] = tuple(values.get("classes", ()))
        typed: dict[str, Any] = {n: Path(v) if n in paths and v is not None else v for n, v in values.items()}
        return cls(**typed)

    def difference(self, other: "Options", finished: bool) -> str | None:
        """The first flag on which two sets of options differ, apart from those that change nothing of what EM has done:
        places, what is done with the mixture in the end, and the length of the start that it is in."""
        free = {"out", "data", "data_dir", "weights", "normalize", "n_stat_samples", "batch_size"}
        free |= {"mesh", "distributed"}
        free |= {"max_iter", "tol"} if finished or self.n_init == 1 else set()
        ours, theirs = self.to_json(), other.to_json()
        differing = [name for name in ours if name not in free and ours[name] != theirs[name]]
        return flag(differing[0]) if differing else None


@dataclass(frozen=True)
class _Grid:
    k: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """The numbers of components to fit."""
    covariance_type: Annotated[tuple[str, ...], one_of(COVARIANCES)] = (
        "diag",
        "full",
        "tied",
    )
    """The families of covariances to fit."""


@dataclass(frozen=True)
class SweepOptions(Common, _Grid):
    """Fit every number of components with every family of covariances, and keep the best as a run."""

    holdout: float = 0.1
    """The share of the images that is held out of every fit and evaluated."""
    criterion: Annotated[str, one_of(CRITERIA)] = "held-out"
    """The criterion of the best fit: the log-likelihood of held-out images, or an information criterion."""
    out: Path | None = None
    """The folder for the table, the picture and the best run [default: runs/<dataset>-sweep]."""

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return self.out or Path("runs") / f"{self.data_name}-sweep"

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the data are seen."""
        super().check()
        check(len(self.k) > 0, "--k expects at least one number.")
        for k in self.k:
            check_count("--k", k)
        check_names(self, covariance_type=COVARIANCES, criterion=CRITERIA)
        check(len(self.covariance_type) > 0, "--covariance-type expects at least one family.")
        here = self.weights is None and self.mesh is None and not self.distributed and self.stream != "always"
        check(here, "a sweep fits on one device, to examples in memory that count once: use python -m jgmm.fit.")
        check(self.holdout > 0, "--holdout must be above 0: a sweep compares fits on data held out of them.")

    def at(self, k: int, covariance_type: str) -> Options:
        """The options of one fit, which is written to the subfolder `best` if it is the best."""
        shared = {f.name: getattr(self, f.name) for f in fields(Common)}
        return Options(**shared, k=k, covariance_type=covariance_type, out=self.folder / "best")


def to_json(options: Any) -> dict[str, object]:
    """The fields of a dataclass of options but `resume`, as JSON values."""
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "resume"}
    return {n: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for n, v in values.items()}


def flag(name: str) -> str:
    """How a field of the options is written on the command line."""
    return "--" + name.replace("_", "-")


def check_names(options: Any, **registries: Registry) -> None:
    """Raise InputError for a field with a name, or names, that its registry does not know; None and auto are none."""
    for name, registry in registries.items():
        value = getattr(options, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one not in (None, "auto"):
                registry.canonical(one)


def check_counts(options: Any, **least: int) -> None:
    """Raise InputError for a field that is below its least value, or too large for an array; None is none."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None:
            check_count(flag(name), value, bound)
            check(value <= MOST, f"{flag(name)} is no count of anything: {value}.")


def check_one_source(options: Any) -> None:
    """Raise InputError where --data and --dataset name two different data."""
    default = next(f.default for f in fields(options) if f.name == "dataset")
    one = options.data is None or options.dataset == default
    check(one, f"--data and --dataset name two different data, {options.data} and {options.dataset}: choose one.")
