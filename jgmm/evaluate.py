"""`python -m jgmm.evaluate RUN`: what a fitted mixture says of data: likelihood, clusters, anomalies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jgmm import cli
from jgmm.checks import InputError, check
from jgmm.options import one_of
from jgmm.tables import DATASETS

if TYPE_CHECKING:
    from jgmm.data import Images


@dataclass(frozen=True)
class Options:
    """Evaluate data under a fitted mixture: log-likelihood, bits per dimension, clusters and anomalies."""

    run: tyro.conf.Positional[Path]
    """Run folder written by `python -m jgmm.fit`."""
    data: Path | None = None
    """A .npy or .npz file to evaluate [default: the run's own data, those kept out of the fit if there are any]."""
    dataset: Annotated[str | None, one_of(DATASETS)] = None
    """A data set to evaluate instead."""
    data_dir: Path | None = None
    """Folder with the CIFAR-10 files."""
    against: tuple[str, ...] = ()
    """Other data sets, or files, to be told apart from the data; resized to its images."""
    quantile: float = 0.05
    """Of the training images' log-likelihood: what lies below it is an anomaly."""
    two_sided: bool = False
    """Half of the quantile at either end: what is likelier than the training images is an anomaly too."""
    out: Path | None = None
    """Folder for the scores and the picture [default: RUN/evaluation]."""
    seed: int = 0
    """Of the noise that bits per dimension suppose."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, score, write."""
    options = cli.parse(Options, prog="python -m jgmm.evaluate", args=args)
    check(0 < options.quantile < 1, f"--quantile must be between 0 and 1, got {options.quantile}.")
    check(options.data is None or options.dataset is None, "--data and --dataset name two different data: choose one.")
    if options.dataset is not None:
        DATASETS.canonical(options.dataset)

    import jax

    from jgmm import checkpoint

    cli.compile_once()
    config = checkpoint.read_config(options.run)
    jax.config.update("jax_enable_x64", config["source"]["dtype"] == "float64")
    _run(options, config)


def _run(options: Options, config: dict[str, Any]) -> None:
    import jax
    import numpy as np

    from jgmm import anomalies, bits, checkpoint, figures
    from jgmm.data import rescale
    from jgmm.inputs import images_for
    from jgmm.scores import scores

    params = checkpoint.load(options.run)
    train = _train_log_prob(options.run)
    images = images_for(config, options.data, options.dataset, options.data_dir)
    others = [_other(name, options.data_dir, params.shape) for name in options.against]
    folder = options.out or options.run / "evaluation"
    limits = anomalies.limits(train, options.quantile, two_sided=options.two_sided)

    found = scores(params, images.pixels)
    share = limits.outside(found.log_prob).mean()
    cluster = found.responsibilities.argmax(axis=1)
    counts = np.bincount(cluster, minlength=params.gmm.k)
    summary: dict[str, Any] = {
        "data": images.name,
        "examples": len(images),
        "log_likelihood": float(found.log_prob.mean(dtype=np.float64)),
        "threshold": limits.low,
        "upper_threshold": limits.high if options.two_sided else None,
        "anomalies": float(share),
        "clusters": int((counts > 0).sum()),
        "against": {},
    }
    print(
        f"log-likelihood: {summary['log_likelihood']:.4f} nats an example on average, median "
        f"{np.median(found.log_prob):.4f}, {len(images):,} examples"
    )
    if images.is_8_bit:
        summary["bits_per_dim"] = bits.bits_per_dim(jax.random.key(options.seed), params, images.pixels)
        print(f"bits per dimension, with uniform noise: {summary['bits_per_dim']:.4f}")
    used, sure = counts[counts > 0] / len(images), found.responsibilities.max(axis=1).mean()
    print(
        f"clusters: {summary['clusters']} of {params.gmm.k} have examples, from {100 * used.min():.2f}% to "
        f"{100 * used.max():.2f}%; the share of the likeliest component is {sure:.3f} on average"
    )
    if images.labels is not None:
        from sklearn.metrics import adjusted_rand_score

        summary["adjusted_rand"] = float(adjusted_rand_score(images.labels, cluster))
        print(f"clusters against labels: adjusted Rand index {summary['adjusted_rand']:.3f}")
    above = f" or above {limits.high:.4f}" if options.two_sided else ""
    print(
        f"anomalies: {100 * share:.2f}% lie below {limits.low:.4f} nats{above}; of the training data "
        f"{100 * options.quantile:g}% do"
    )
    log_probs = {images.name: found.log_prob}
    for other in others:
        theirs = scores(params, other.pixels).log_prob
        area = anomalies.separation(train, found.log_prob, theirs)
        log_probs[other.name] = theirs
        summary["against"][other.name] = {
            "log_likelihood": float(theirs.mean(dtype=np.float64)),
            "anomalies": float(limits.outside(theirs).mean()),
            "auroc_likelihood": area.likelihood,
            "auroc_typicality": area.typicality,
        }
        print(
            f"against {other.name}: {theirs.mean(dtype=np.float64):.4f} nats an example, "
            f"{100 * limits.outside(theirs).mean():.2f}% anomalies, "
            f"AUROC {area.likelihood:.4f} by likelihood, {area.typicality:.4f} by typicality"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "scores.npz", **found._asdict(), component=cluster, anomaly=limits.outside(found.log_prob))
        checkpoint.write_json(folder / "evaluation.json", summary)
        figures.log_probs(folder / "log_prob.png", {"training data": train} | log_probs, limits)
        if figures.is_image(params.shape):
            figures.clusters(folder / "clusters.png", rescale(images.pixels), found.responsibilities)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    print("\n".join(str(path) for path in sorted(folder.iterdir())))


def _other(name: str, data_dir: Path | None, shape: tuple[int, ...]) -> "Images":
    from jgmm.data import arrays, load
    from jgmm.data.resize import resize

    images = arrays.load(Path(name)) if Path(name).suffix else load(name, data_dir)
    if images.shape != shape:
        print(f"{images.name}: resized from {images.shape} to {shape}")
    return resize(images, shape)


def _train_log_prob(run: Path) -> Any:
    import numpy as np

    from jgmm import checkpoint

    path = run / checkpoint.TRAIN_LOG_PROB
    check(
        path.is_file(),
        f"{run} does not hold the log-likelihoods of its training data: it was fitted with --residual none, which has "
        "no density, or by an older version. Fit it again.",
    )
    return np.load(path)


if __name__ == "__main__":
    cli.run(main)
