"""What `python -m train.evaluate` does: images of a flow against real ones, beside what is possible and x0 alone."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.checkpoint.files import faults, read_json, versions, write_json
from jgmm.commands.options import to_json
from jgmm.commands.outputs import check_memory, picture, signed_by
from jgmm.data import Images, rescale
from jgmm.errors import check
from jgmm.numerics.devices import jit_convolutions
from train import runs, setup
from train.batches import in_parts, indices, keys_of
from train.config import Config
from train.couplings.assignment import assign
from train.evaluate import PROG
from train.figures import quality
from train.flow import Flow, load
from train.likelihood import bits_per_dim
from train.metrics.classifier import auc
from train.metrics.manifold import manifold
from train.metrics.moments import frechet, kernel_distance, sliced_wasserstein
from train.registry import FEATURES
from train.sampler import images
from train.sources import prune
from train.step import make_cost

if TYPE_CHECKING:
    from train.evaluate import Options

OUTPUTS = SUMMARY, PICTURE = "evaluation.json", "quality.png"
# Streams of random numbers: draws of x0, and the likelihood.
DRAWS, LIKELIHOOD = range(2)
# Options that change no number that was judged before.
FREE = {"nfe", "run", "out", "force", "data_dir"}
# The least AUC that says that x0 in training and x0 in sampling are not of one law.
APART = 0.55
Numbers = dict[str, float]


class Judged(NamedTuple):
    """What was found.

    Attributes:
        against: what the images were compared with.
        rows: by name: "real" for other real images, "x0" for draws of the source as they are, and the numbers of
            evaluations; each with its numbers.
        law: the AUC of x0 as training sees them against x0 as sampling draws them.
        bits: the mean bits per dimension and its standard error, or None.
        about: the options of the judge and of the run, and how many steps it was trained.
    """

    against: str
    rows: dict[str, Numbers]
    law: float
    bits: tuple[float, float] | None
    about: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """For a terminal: a table, and what is to be said beside it."""
        names = list(next(iter(self.rows.values())))
        width = max(map(len, names))
        yield f"against {self.against}"
        yield " " * width + "".join(f"{row:>10}" for row in self.rows)
        for name in names:
            yield f"{name:{width}}" + "".join(f"{numbers[name]:10.4g}" for numbers in self.rows.values())
        says = "is NOT x0 in sampling" if self.law > APART else "and in sampling look the same"
        yield f"law of x0: AUC {self.law:.3f}, x0 in training {says}"
        if self.bits is not None:
            yield f"likelihood: {self.bits[0]:.3f} ± {self.bits[1]:.3f} bits per dimension"


def judge(options: "Options") -> Iterator[Judged]:
    """Judge a run: what is known after every number of evaluations. Raises InputError for data other than the run's,
    and too few images for a metric."""
    config = runs.kept_config(options.run)
    made = setup.build(replace(config, data_dir=options.data_dir or config.data_dir, resume=True))
    train, held_out = made.images, made.held_out
    check(train.is_8_bit, f"{PROG} compares 8-bit images, {train.name} has {train.pixels.dtype}.")
    flow = load(options.run, options.parameters, options.step)
    check(
        options.likelihood == 0 or flow.classes == 0,
        "--likelihood of a conditional flow is not computed: it would need the law of the labels.",
    )
    if options.prune:
        pruned: Any = prune(flow.source, train, flow.space)
        flow = flow._replace(source=pruned)
    real, other, against = _real(train, held_out, options.n)
    n = len(real)
    check_memory("--n", n, 8 * (2 + len(options.nfe)) * real[0].size)
    compare = _comparison(options, train.pixels, real)
    x0 = _draws(flow, options, n)
    about = {"options": to_json(options), "config": config.to_json(), "step": flow.step, "versions": versions()}
    about |= {"data_sha256": train.sha256}
    found = _judged_before(options, about)
    if found is None:
        shown = _eight_bit(np.asarray(flow.source.shown(flow.space, jnp.asarray(x0))))
        bits = _bits(flow, options, real)
        found = Judged(against, {"real": compare(other), "x0": compare(shown)}, _law(made, x0), bits, about)
    labels = _labels(train, flow, n)
    for nfe in options.nfe:
        if str(nfe) not in found.rows:
            rows = found.rows | {str(nfe): compare(_made(flow, x0, labels, options, nfe))}
            made_with = sorted(filter(str.isdigit, rows), key=int)
            found = found._replace(rows={name: rows[name] for name in ("real", "x0", *made_with)})
            print(f"{nfe} evaluations: done", flush=True)
        yield found


def _judged_before(options: "Options", about: dict[str, Any]) -> Judged | None:
    """What the folder holds, if it was judged with the same options but for the numbers of evaluations."""
    if signed_by(options.folder / SUMMARY) != PROG:
        return None
    found = read(options.folder)
    there = found.about.get("options", {})

    def compared(about: dict[str, Any]) -> dict[str, Any]:
        asked = {name: value for name, value in about.get("options", {}).items() if name not in FREE}
        config = Config.from_json(about.get("config", {})).to_json() | {"data_dir": None, "out": None}
        return json.loads(json.dumps(about | {"options": asked, "config": config}))

    if compared(found.about) != compared(about):
        return None
    both = sorted({*there["nfe"], *options.nfe})
    return found._replace(about=about | {"options": about["options"] | {"nfe": both}})


def _real(train: Images, held_out: Images | None, n: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Real images to compare with, as many others that show what is possible, and in words what they are."""
    rng = np.random.default_rng(0)

    def some(images: Images) -> np.ndarray:
        return images.pixels[rng.permutation(len(images))]

    if held_out is None:
        n, mixed = min(n, len(train) // 2), some(train)
        return mixed[:n], mixed[n : 2 * n], f"{n:,} training images; real: as many others of them"
    n = min(n, len(held_out), len(train))
    return some(held_out)[:n], some(train)[:n], f"{n:,} images held out of the training; real: as many training images"


def _comparison(options: "Options", train: np.ndarray, real: np.ndarray) -> Callable[[np.ndarray], Numbers]:
    """All numbers of 8-bit images against the real ones."""
    channels = train.shape[3]
    check(channels in (1, 3), f"{PROG} judges gray or color images, those of the run have {channels} channels.")
    spaces = {name: FEATURES[name](train) for name in options.features}
    if options.inception_weights is not None:
        from train.metrics import inception

        spaces["inception"] = inception.features_of(options.inception_weights)
    known = {name: of(real) for name, of in spaces.items()}

    def compare(made: np.ndarray) -> Numbers:
        found: Numbers = {}
        for name, of in spaces.items():
            mine = of(made)
            distance, kernel = ("FID", "KID") if name == "inception" else ("Fréchet", "kernel distance")
            found[f"{distance}, {name}"] = frechet(known[name], mine)
            found[f"{kernel}, {name}"] = kernel_distance(known[name], mine)
            found |= {f"{word}, {name}": x for word, x in manifold(known[name], mine)._asdict().items()}
        a, b = rescale(real), rescale(made)
        found["classifier AUC"] = auc(a, b, options.seed)
        found["sliced W2"] = sliced_wasserstein(a.reshape(len(a), -1), b.reshape(len(b), -1))
        return found

    return compare


def _draws(flow: Flow, options: "Options", n: int) -> np.ndarray:
    key = jax.random.fold_in(jax.random.key(options.seed), DRAWS)
    parts, size = -(-n // options.batch_size), options.batch_size
    return np.concatenate([np.asarray(flow.source.draw(jax.random.fold_in(key, i), size)) for i in range(parts)])[:n]


def _labels(train: Images, flow: Flow, n: int) -> np.ndarray | None:
    """n labels, as often as training images have them; None for an unconditional flow."""
    if train.labels is None or flow.classes == 0:
        return None
    return np.random.default_rng(0).choice(train.labels, n).astype(np.int32)


def _made(flow: Flow, x0: np.ndarray, labels: np.ndarray | None, options: "Options", nfe: int) -> np.ndarray:
    """8-bit images from x0, in so many evaluations."""
    draw = jit_convolutions(images, "structure", "solver", "nfe")

    def follow(part: jax.Array, first: int) -> jax.Array:
        rows = np.minimum(first + np.arange(len(part)), len(x0) - 1)  # the last part is filled up
        asked = None if labels is None else jnp.asarray(labels[rows])
        return draw(flow.structure, flow.parameters, flow.space, part, asked, options.solver, nfe).x

    return _eight_bit(in_parts(follow, x0, options.batch_size))


def _eight_bit(x: np.ndarray) -> np.ndarray:
    """Pixels of [-1, 1] as images have them. Raises InputError for those that are not finite."""
    check(bool(np.isfinite(x).all()), "the images are not finite: the flow has diverged; take an earlier --step.")
    return np.clip(np.rint(127.5 * (x + 1)), 0, 255).astype(np.uint8)


def _law(made: setup.Setup, free: np.ndarray) -> float:
    """The AUC of a classifier of x0 as training sees them and x0 as sampling draws them."""
    config, coupling, memory = made.config, made.inputs.coupling, made.inputs.coupling.begin()
    pairs = jax.jit(lambda w, keys, index, order: w.coupling.pairs(keys, w.data, index, order, memory).x0)
    cost = jax.jit(make_cost(config))
    seen, size = [], config.batch_size
    for i in range(-(-len(free) // size)):
        step = jnp.asarray(config.steps + 1 + i)
        keys = keys_of(config.seed, step)
        index = jnp.asarray(indices(config.seed, i, len(made.images), size))
        order = jnp.asarray(assign(np.asarray(cost(made.inputs, memory, step, index)))) if coupling.assigned else None
        seen.append(np.asarray(pairs(made.inputs, keys, index, order)))
    return auc(np.concatenate(seen)[: len(free)], free)


def _bits(flow: Flow, options: "Options", real: np.ndarray) -> tuple[float, float] | None:
    """The mean of the first of the real images, and its standard error."""
    if options.likelihood == 0:
        return None
    n = options.likelihood
    check(n <= len(real), f"--likelihood {n} is more than the {len(real)} real images there are, up to --n.")
    key = jax.random.fold_in(jax.random.key(options.seed), LIKELIHOOD)
    found = np.asarray(bits_per_dim(key, flow, real[:n], options.trace), np.float64)
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))


def write(options: "Options", found: Judged) -> None:
    """The numbers as JSON, and quality over evaluations as a picture."""
    with faults(f"write to {options.folder}"):
        options.folder.mkdir(parents=True, exist_ok=True)
    write_json(options.folder / SUMMARY, {"made_by": PROG, **found._asdict()})
    with picture(options.folder / PICTURE, PROG) as path:
        quality(path, {options.run.name: found.rows})


def read(folder: Any) -> Judged:
    """What `write` wrote. Raises InputError if there is nothing, or it is damaged."""
    path = folder / SUMMARY
    content = read_json(path)
    lacking = [name for name in Judged._fields if name not in content]
    check(not lacking, f"{path} is not an evaluation of {PROG}: it lacks {', '.join(lacking)}.")
    return Judged(**{name: content[name] for name in Judged._fields})
