"""The options of `python -m train`. Imports nothing heavy: `--help` reads this file.

The default is the CIFAR-10 recipe of torchcfm (`examples/images/cifar10`): Adam at 2e-4 with 5,000 steps of warm-up,
batches of 128, 400,000 steps, horizontal flips, an average of the parameters with decay 0.9999, t uniform. With N(0, I)
and a minibatch assignment (`--coupling ot`) it is published to reach an FID of 4.40 at 100 Euler steps (arXiv
2512.18184, table 2); jgmm has not measured it. `--preset tiny` runs the same code on a CPU in minutes, and
`--preset mixture` trains from a mixture source, of `python -m jgmm.fit` or `python -m train.reverse`, in the space and
with the coupling that have been best with both (docs/judging.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jgmm.commands import cli
from jgmm.commands.options import check_counts, check_names, check_one_source, flag, one_of, to_json
from jgmm.errors import check, check_number, check_seed, check_share
from jgmm.registry import DATASETS, PIXELS, SOLVERS
from train.registry import COUPLINGS, SPACES

PROG = "python -m train"


@dataclass(frozen=True)
class Config:
    """Train a flow from a source to images."""

    preset: Literal["cifar10", "tiny", "mixture"] = "cifar10"
    """The named set of defaults for all options that follow."""
    out: Path | None = None
    """The run folder [default: runs/flow-<dataset>-<source>-<coupling>, and the space and preset if not default]."""
    resume: bool = False
    """Go on with the training in the run folder, with its own options."""

    dataset: Annotated[str, one_of(DATASETS)] = "cifar10"
    """The data set to train on."""
    data: Path | None = None
    """A file of your own images instead: .npy or .npz, of shape [N, H, W, C]."""
    pixels: Annotated[str, one_of(PIXELS, "auto")] = "auto"
    """The convention of a file of images in floating point: 0..1, signed ([-1, 1]), 0..255, or raw, to take it as it is
    [default: its range tells]."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files [default: $JGMM_DATA, then TensorFlow Datasets]."""
    size: int | None = None
    """The side that images are averaged down to [default: their own]."""
    holdout: float = 0.0
    """The share of the images that is held out, for `python -m train.evaluate`: the same as those of `jgmm.fit` with
    this --holdout and its default --seed, whatever the seed here."""
    flips: bool = True
    """Mirror half of the images, where mirror images are of their kind."""
    conditional: bool = False
    """Condition on the labels of the images."""
    label_dropout: float = 0.1
    """The probability that a label is withheld, so that samples can be guided."""

    source: str = "gaussian"
    """The source of x0: gaussian, mle (one Gaussian fitted to the images), a run folder of jgmm.fit, or a folder of
    train.reverse."""
    norm_align: bool = False
    """Scale x0 to the mean norm of the images."""
    coupling: Annotated[str, one_of(COUPLINGS)] = "independent"
    """The coupling of x0 with images: any (independent), an assignment of least cost in the batch (ot), one of draws
    that are kept and change places (cache), a draw from the image's component (component), an assignment among its
    images (component-ot), or the image that optimal transport to the whole data set gives each draw (semidiscrete),
    or to the images of its component (component-semidiscrete)."""
    rho: float = 0.0
    """The share of the image's own place in its component that x0 keeps, from 0 to 1; for --coupling component."""
    cost_axes: int = 256
    """The number of principal axes of the images along which --coupling semidiscrete takes its cost; 0 for all."""
    epsilon: float = 0.0
    """How soft --coupling semidiscrete is, in units of the variance of the images; 0 gives every draw its one image."""
    potential_rounds: int = 8
    """The largest number of rounds of 250 steps in which the potential of --coupling semidiscrete is fitted."""
    space: Annotated[str, one_of(SPACES)] = "pixel"
    """The space the flow runs in: pixels, or whitened images V diag(1/√(e + ε)) Vᵀ (x − mean)."""
    zca_epsilon: float = 1e-3
    """The number ε of --space zca, in squared units of pixels in [-1, 1]."""

    base: int = 128
    """The number of channels of the first level of the U-Net."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """The number of channels of every level, in units of --base."""
    blocks: int = 2
    """The number of residual blocks per level."""
    attention: tuple[int, ...] = (16,)
    """The heights of the image at which there is self-attention; those that no level has are passed over."""
    head_channels: int = 64
    """The number of channels per attention head."""
    dropout: float = 0.1
    """The dropout rate of the residual blocks."""
    time_scale: float = 1.0
    """The factor of t in its cosine embedding."""
    init_from: Path | None = None
    """A run folder of `python -m train` whose averaged parameters the network begins with, in the place of random
    ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The floating-point type of the computation; parameters are float32."""
    remat: bool = False
    """Compute activations again in the backward pass (rematerialization), to save memory."""

    steps: int = 400_000
    """The number of training steps."""
    batch_size: int = 128
    """The number of images per step, over all devices."""
    accumulate: int = 1
    """The number of parts whose gradients are accumulated into one step."""
    unroll: int = 1
    """The number of steps in one program: more than one saves an accelerator the wait for the host between them."""
    learning_rate: float = 2e-4
    """The learning rate of Adam after the warm-up."""
    warmup: int = 5000
    """The number of steps in which the learning rate rises from 0."""
    clip: float = 1.0
    """The norm that gradients are clipped to."""
    ema: float = 0.9999
    """The decay of the averaged parameters that samples are drawn with."""
    ema_warmup: bool = False
    """Let the average forget faster at first: decay (1 + step) / (10 + step)."""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """The distribution of t (logit-normal: Esser et al., arXiv 2403.03206)."""
    fsdp: bool = False
    """Shard parameters, averages and the optimizer over the devices, and not only the batch."""
    distributed: bool = False
    """Join the other processes of a TPU pod or a SLURM job, or those at $JAX_COORDINATOR_ADDRESS."""
    seed: int = 0
    """The seed of all random numbers."""

    log_every: int = 100
    """The number of steps between lines of metrics.jsonl."""
    save_every: int = 5000
    """The number of steps between checkpoints."""
    keep_last: int = 2
    """The number of newest checkpoints that are kept."""
    keep_every: int = 100_000
    """The number of steps between checkpoints that are kept as well."""
    sample_every: int = 20_000
    """The number of steps between grids of samples from fixed noise."""
    n_samples: int = 64
    """The number of images in a grid."""
    solver: Annotated[str, one_of(SOLVERS)] = "euler"
    """The solver of the flow for the grids."""
    nfe: int = 20
    """The number of evaluations of the network for a grid; dopri5 chooses its own."""

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        data = self.data.stem if self.data else self.dataset
        special = [word for word in (self.space, self.preset) if word not in ("pixel", "cifar10")]
        return self.out or Path("runs") / "-".join(["flow", data, Path(self.source).name, self.coupling, *special])

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the data are seen."""
        check_names(self, dataset=DATASETS, pixels=PIXELS, coupling=COUPLINGS, space=SPACES, solver=SOLVERS)
        check_counts(self, base=1, blocks=1, head_channels=1, steps=1, batch_size=1, accumulate=1, warmup=0)
        check_counts(self, cost_axes=0, potential_rounds=1, unroll=1)
        check(self.size is None or self.size >= 1, f"--size must be at least 1, got {self.size}.")
        check_counts(self, log_every=1, save_every=1, keep_last=1, keep_every=1, sample_every=1, n_samples=1, nfe=1)
        for name in ("rho", "label_dropout"):
            check_number(flag(name), getattr(self, name), least=0, most=1)
        for name in ("ema", "dropout", "holdout"):
            check_share(flag(name), getattr(self, name))
        check_number("--epsilon", self.epsilon, least=0)
        for name in ("learning_rate", "clip", "zca_epsilon", "time_scale"):
            check_number(flag(name), getattr(self, name), least=0, open_ends=True)
        check_seed("--seed", self.seed)
        check_one_source(self)
        check(
            self.source != "",
            "--source is empty: --preset mixture needs one, of python -m jgmm.fit --out SOURCE or of "
            "python -m train.reverse RUN --out SOURCE.",
        )
        for name in ("steps", "log_every", "save_every", "sample_every"):
            fits = getattr(self, name) % self.unroll == 0
            check(fits, f"{flag(name)} {getattr(self, name)} must be a multiple of --unroll {self.unroll}.")
        check(self.base % 2 == 0, f"--base must be even, got {self.base}.")
        positive = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        check(positive, f"--multipliers must be at least one number from 1 up, got {self.multipliers}.")
        check(
            min(self.attention, default=1) >= 1,
            f"--attention expects heights of images, from 1 up, got {self.attention}.",
        )
        for channels in (self.base * multiplier for multiplier in self.multipliers):
            check(
                channels < self.head_channels or channels % self.head_channels == 0,
                f"--head-channels {self.head_channels} does not divide the {channels} channels of a level.",
            )
        check(
            self.batch_size % self.accumulate == 0,
            f"--batch-size {self.batch_size} cannot be worked off in --accumulate {self.accumulate} equal parts.",
        )

    def to_json(self) -> dict[str, object]:
        """The options as JSON values."""
        return to_json(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `to_json`; options that are not there are the preset's. Raises InputError for unknown ones."""
        known = {field.name for field in fields(cls)}
        strange = sorted(values.keys() - known)
        check(not strange, f"the run has options that this version does not know: {', '.join(strange)}.")
        values = {"pixels": "raw", **values}  # as versions before this option took them
        typed: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        paths = {n: Path(typed[n]) for n in ("out", "data", "data_dir", "init_from") if typed.get(n) is not None}
        if typed.get("preset") not in PRESETS:  # one that is no more: its options are there
            typed["preset"] = "cifar10"
        return replace(PRESETS[typed["preset"]], **(typed | paths))

    def difference(self, other: "Config") -> str | None:
        """The first flag on which two configurations differ, apart from places, the length and what is shown."""
        free = (
            "out",
            "resume",
            "steps",
            "data",
            "data_dir",
            "log_every",
            "save_every",
            "keep_last",
            "keep_every",
            "sample_every",
            "n_samples",
            "solver",
            "nfe",
            "distributed",
            "fsdp",
        )
        names = [f.name for f in fields(self) if f.name not in free]
        differing = [name for name in names if getattr(self, name) != getattr(other, name)]
        return flag(differing[0]) if differing else None


TINY = Config(
    preset="tiny",
    base=16,
    multipliers=(1, 2, 4),
    blocks=1,
    attention=(),
    head_channels=32,
    dropout=0.0,
    time_scale=1000.0,
    steps=1000,
    batch_size=64,
    learning_rate=1e-3,
    warmup=100,
    ema=0.995,
    ema_warmup=True,
    log_every=50,
    save_every=500,
    sample_every=500,
)
# 0.4 is as much of the variance at 32 x 32 as 0.1 is at 16 x 16: both were measured (docs/judging.md).
MIXTURE = Config(
    preset="mixture",
    source="",
    coupling="semidiscrete",
    cost_axes=128,
    space="zca",
    zca_epsilon=0.4,
)
PRESETS = {"cifar10": Config(), "tiny": TINY, "mixture": MIXTURE}


def parse(args: Sequence[str]) -> Config:
    """The options of a command line, those not given from the preset it names."""
    named = cli.parse(Config, prog=PROG, args=[arg for arg in args if arg not in ("-h", "--help")]).preset
    return cli.parse(Config, prog=PROG, args=args, default=PRESETS[named])


def resumed(args: Sequence[str], kept: Config) -> Config:
    """The options to resume with: those of the interrupted run, and what of the command line may differ from them.

    Raises:
        InputError: For a flag that is given and differs.
    """
    given = cli.parse(Config, prog=PROG, args=args, default=kept)
    differing = kept.difference(given)
    check(
        differing is None,
        f"{differing} differs from the interrupted run's: a resumed training keeps its options. Leave the flag out.",
    )
    return replace(given, resume=True)
