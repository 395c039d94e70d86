"""What commands are given: data and runs, and what is refused before anything is written."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jgmm.checkpoint.files import CONFIG, PROGRESS
from jgmm.checkpoint.interrupted import kept_options
from jgmm.checkpoint.models import load_source, read_config
from jgmm.commands import cli
from jgmm.commands.options import Common, Options
from jgmm.data import Images, arrays, load
from jgmm.data.images import split
from jgmm.data.resize import resize, shrink
from jgmm.encoder.bases import block_of
from jgmm.errors import check
from jgmm.numerics.processes import of_all, over_processes
from jgmm.product.mixture import ProductMixture
from jgmm.registry import BASES
from jgmm.source import Source

# What a run leaves that was killed before it could be resumed.
LEFT_BEHIND = {PROGRESS, "origin.npz", "coupling.npz"}


@dataclass(frozen=True)
class Data:
    """The images of a run: those it is fitted to, and those held out. Of several processes, each has its own; the
    numbers are those of all."""

    train: Images
    held_out: Images | None
    sha256: str
    n_train: int
    n_held_out: int


class Run(NamedTuple):
    """A fitted source, and the config.json beside it."""

    source: Source
    config: dict[str, Any]


def open_run(folder: Path) -> Run:
    """The run in a folder, for a command that asks it something: JAX computes in its precision from now on, with
    programs kept from earlier commands. Raises InputError if there is none."""
    cli.compile_once()
    config = read_config(folder)
    jax.config.update("jax_enable_x64", config["model"]["dtype"] == "float64")
    return Run(load_source(folder), config)


def prepare(options: Common, k: int) -> Data:
    """Load, hold out, mirror. Raises InputError for data that cannot be fitted, and fewer examples than k."""
    streamed = {"auto": None, "always": True, "never": False}[options.stream]
    images = (
        arrays.load(options.data, options.pixels, streamed) if options.data else load(options.dataset, options.data_dir)
    )
    images = shrink(images, options.size)
    print(
        f"{images.name}: {len(images):,} examples of {images.shape} {images.pixels.dtype} from {images.location}"
        + (", read in every pass" if images.on_disk else "")
    )
    say_remark(images)
    digest = images.sha256
    if options.weights is not None:
        weight = arrays.load_weights(options.weights, len(images))
        images = _weighed(images, weight)
        digest = hashlib.sha256(digest.encode() + weight.tobytes()).hexdigest()
    train, held_out = split(images, options.holdout, options.seed)
    check(
        len(train) >= k,
        f"{len(train)} examples are too few for --k {k}: lower k or bring more data.",
    )
    train = train.with_mirror_images() if options.augmentation else train
    sizes = (len(train), 0 if held_out is None else len(held_out))
    return Data(_own(train), held_out and _own(held_out), digest, *sizes)


def _own(images: Images) -> Images:
    """What this process has of images that all processes see. Raises InputError for fewer images than processes."""
    processes, here = jax.process_count(), jax.process_index()
    if processes == 1:
        return images
    check(len(images) >= processes, f"{len(images)} examples are too few for {processes} processes.")
    ends = len(images) * np.arange(processes + 1) // processes
    return images.take(np.arange(ends[here], ends[here + 1]))


def _weighed(images: Images, weight: np.ndarray) -> Images:
    """The images that count."""
    some = replace(images, weight=weight)
    return some if (weight > 0).all() else some.take(np.flatnonzero(weight > 0))


def say_remark(images: Images) -> None:
    """Print how the numbers of a file were read, where that was a choice."""
    if images.remark:
        print(f"{images.name}: {images.remark}; --pixels settles it")


def images_for(
    config: dict[str, Any],
    data: Path | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    pixels: str = "auto",
) -> Images:
    """The images that a run is to be asked about: a file, a data set, or, with neither, its own: those held out of the
    fit if there are any, else the training images.

    Raises:
        InputError: If the run's own data are not what they were, and for pixels in another convention than the run's,
            unless `pixels` says what they are.
    """
    if data is not None or dataset is not None:
        images = (arrays.load(data, pixels) if data is not None else load(str(dataset), data_dir)).in_memory()
        say_remark(images)
        if pixels == "auto":
            check_convention(config, images, "name their convention with --pixels")
        return images
    check(
        "options" in config,
        "this model was saved by jgmm.save, which keeps no data: name some with --data or --dataset.",
    )
    options = Options.from_json(config["options"])
    own = prepare(replace(options, data_dir=data_dir or options.data_dir), options.k)
    check(
        own.sha256 == config["data"]["sha256"],
        f"{own.train.location} no longer holds the data of this run: name others with --data or --dataset.",
    )
    part = "the training images" if own.held_out is None else "those held out of the fit"
    print(f"the run's own data: {part}")
    return (own.held_out or own.train).in_memory()


def other_images(name: str, data_dir: Path | None, shape: tuple[int, ...]) -> Images:
    """A data set or a file, by name, its images brought to a shape. Raises InputError where that is impossible."""
    images = (arrays.load(Path(name)) if Path(name).suffix else load(name, data_dir)).in_memory()
    if images.shape != shape:
        print(f"{images.name}: resized from {images.shape} to {shape}")
    return resize(images, shape)


def check_convention(config: dict[str, Any], images: Images, remedy: str) -> None:
    """Raise InputError for images in another convention of pixels than those that a run was fitted to."""
    theirs = config.get("data", {}).get("pixels")
    known = theirs is not None and len(images.shape) == 3
    check(
        not known or images.convention == theirs,
        f"the run was fitted to pixels that are {theirs}, those of {images.location} are "
        f"{images.convention}: bring them to the same, or {remedy}.",
    )


def check_free(folder: Path, remedy: str = "go on with --resume, or choose another --out") -> None:
    """Raise InputError unless a new run can be written to the folder, so that nothing is lost; `remedy` is for one that
    holds a finished run."""
    check(not (folder / CONFIG).exists(), f"{folder} already holds a run: {remedy}.")
    check(
        kept_options(folder) is None,
        f"{folder} holds an interrupted fit: go on with --resume, choose another --out, or delete it first.",
    )
    there = folder.iterdir() if folder.is_dir() else ()
    strange = sorted(p.name for p in there if p.name not in LEFT_BEHIND and not p.name.startswith("."))
    check(not strange, f"{folder} is not empty, it holds {', '.join(strange[:3])}: choose another --out.")


def check_data(options: Common, data: Data) -> None:
    """Raise InputError for options that do not fit the data."""
    d = int(np.prod(data.train.shape))
    n = options.n_principal
    if options.n_pca != "none":
        basis_of(options, data.train.shape)
    bound = min(data.n_train, d)
    check(n is None or n <= bound, f"--n-pca must be at most min(N, D) = {bound}, got {n}.")
    first = of_all(np.asarray(data.train.pixels[:1]))[:1]
    varies = any(bool((piece != first).any()) for piece in data.train.pieces())
    several = bool(over_processes(np.array(int(varies))) > 0)
    check(several, "the data are constant: every example is the same, there is nothing to fit.")


def is_local(options: Common, shape: tuple[int, ...]) -> bool:
    """Whether the examples are images of which all components are kept, so that axes may be those of blocks."""
    return len(shape) == 3 and options.n_pca == "all"


def basis_of(options: Common, shape: tuple[int, ...]) -> tuple[str, int | None]:
    """The name of the basis that the options choose for examples of a shape, and the side of its blocks; None for
    principal axes. Raises InputError for blocks that do not tile an image."""
    name = (
        ("cosine" if is_local(options, shape) else "pca") if options.basis == "auto" else BASES.canonical(options.basis)
    )
    if name == "pca":
        check(
            options.side is None,
            "--block and --blocks are of images in a local basis: leave them out, or name one with --basis.",
        )
        return name, None
    check(name != "learned" or options.n_pca == "all", "--basis learned turns all components: leave --n-pca out.")
    return name, block_of(shape, options.side)


def check_start(options: Options, data: Data, start: Source) -> None:
    """Raise InputError for a run that EM cannot start from with these options and data."""
    check(
        start.gmm.k == options.k,
        f"--init-from holds {start.gmm.k} components, --k asks for {options.k}: pass --k {start.gmm.k}.",
    )
    product, asked = isinstance(start.gmm, ProductMixture), options.blocks is not None
    kinds = {False: "a mixture of whole images", True: "a product of block mixtures"}
    check(product == asked, f"--init-from holds {kinds[product]}, the options ask for {kinds[asked]}: see --blocks.")
    check(
        start.shape == data.train.shape,
        f"--init-from models examples of shape {start.shape}, the data have {data.train.shape}.",
    )
    check(
        str(start.gmm.dtype) == options.dtype,
        f"--init-from was computed in {start.gmm.dtype}: pass --dtype {start.gmm.dtype}.",
    )
    if isinstance(start.gmm, ProductMixture) and options.blocks is not None:
        alike = len(start.gmm.parts) == 1 and start.gmm.parts[0].batch_shape == ()
        size = options.blocks**2 * start.shape[2]
        check(
            alike and start.gmm.parts[0].d == size, f"--init-from holds no Gaussians of {size} codes that blocks share."
        )
    check(
        options.n_pca == "all",
        "--init-from brings the principal components of its own run: leave --n-pca out.",
    )
