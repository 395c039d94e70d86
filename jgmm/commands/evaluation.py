"""What a fitted mixture says of data: figures, printed and written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jgmm.checkpoint.files import TRAIN_LOG_PROB, faults, write_json
from jgmm.checkpoint.models import read_other
from jgmm.commands.outputs import arrays, picture
from jgmm.data import Images, is_image, rescale
from jgmm.errors import InputError
from jgmm.figures import fits
from jgmm.figures.images import clusters
from jgmm.metrics.anomaly import Limits, Separation, limits, separation
from jgmm.metrics.likelihood import Scores, bits_per_dim, log_probs, scores
from jgmm.source import Source

PROG = "python -m jgmm.evaluate"
SCORES, SUMMARY, LOG_PROB, CLUSTERS = "scores.npz", "evaluation.json", "log_prob.png", "clusters.png"
OUTPUTS = (CLUSTERS, SUMMARY, LOG_PROB, SCORES)
# Draws that stand for training data where there are none.
DRAWS = 10_000


class Other(NamedTuple):
    """Data that were compared with."""

    name: str
    log_prob: np.ndarray
    area: Separation


class Evaluation(NamedTuple):
    """What was found.

    Attributes:
        name: Of the data.
        scores: Of every example.
        train: The log-density of the training data.
        limits: Outside of which an example is an anomaly.
        quantile: The share of the training data that is.
        bits_per_dim: Of 8-bit images, else None.
        adjusted_rand: Of the clusters against the labels, where there are any.
        others: The data that were compared with.
    """

    name: str
    scores: Scores
    train: np.ndarray
    limits: Limits
    quantile: float
    bits_per_dim: float | None
    adjusted_rand: float | None
    others: list[Other]

    @property
    def component(self) -> np.ndarray:
        """The likeliest component of every example."""
        return self.scores.responsibilities.argmax(axis=1)

    @property
    def counts(self) -> np.ndarray:
        """How many examples every component is the likeliest of."""
        return np.bincount(self.component, minlength=self.scores.responsibilities.shape[1])

    def share_outside(self, log_prob: np.ndarray) -> float:
        """The share of anomalies."""
        return float(self.limits.outside(log_prob).mean())

    def lines(self) -> list[str]:
        """For a reader."""
        log_prob, k = self.scores.log_prob, len(self.counts)
        said = [
            f"log-likelihood: {_mean(log_prob):.4f} nats per example on average, median {np.median(log_prob):.4f}, "
            f"{len(log_prob):,} examples"
        ]
        if self.bits_per_dim is not None:
            said.append(f"bits per dimension, with uniform noise: {self.bits_per_dim:.4f}")
        used, sure = self.counts[self.counts > 0] / len(log_prob), self.scores.responsibilities.max(axis=1).mean()
        said.append(
            f"clusters: {len(used)} of {k} have examples, from {100 * used.min():.2f}% to {100 * used.max():.2f}%; the "
            f"share of the likeliest component is {sure:.3f} on average"
        )
        if self.adjusted_rand is not None:
            said.append(f"clusters against labels: adjusted Rand index {self.adjusted_rand:.3f}")
        above = f" or above {self.limits.high:.4f}" if np.isfinite(self.limits.high) else ""
        said.append(
            f"anomalies: {100 * self.share_outside(log_prob):.2f}% lie below {self.limits.low:.4f} nats{above}; of the "
            f"training data {100 * self.quantile:g}% do"
        )
        said += [
            f"against {other.name}: {_mean(other.log_prob):.4f} nats per example, "
            f"{100 * self.share_outside(other.log_prob):.2f}% anomalies, AUROC {other.area.likelihood:.4f} by "
            f"likelihood, {other.area.typicality:.4f} by typicality"
            for other in self.others
        ]
        return said

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        log_prob = self.scores.log_prob
        found: dict[str, Any] = {
            "data": self.name,
            "examples": len(log_prob),
            "log_likelihood": _mean(log_prob),
            "threshold": self.limits.low,
            "upper_threshold": self.limits.high if np.isfinite(self.limits.high) else None,
            "anomalies": self.share_outside(log_prob),
            "clusters": int((self.counts > 0).sum()),
        }
        measured = {"bits_per_dim": self.bits_per_dim, "adjusted_rand": self.adjusted_rand}
        found |= {name: value for name, value in measured.items() if value is not None}
        found["against"] = {
            other.name: {
                "log_likelihood": _mean(other.log_prob),
                "anomalies": self.share_outside(other.log_prob),
                "auroc_likelihood": other.area.likelihood,
                "auroc_typicality": other.area.typicality,
            }
            for other in self.others
        }
        return found


def evaluate_images(
    key: PRNGKeyArray,
    source: Source,
    images: Images,
    train: np.ndarray,
    others: Sequence[Images],
    quantile: float,
    two_sided: bool,
) -> Evaluation:
    """Score the images and the others; `train` holds the log-densities of the training data."""
    found = scores(source, images.pixels)
    compared = []
    for other in others:
        theirs = log_probs(source, other.pixels)
        compared.append(Other(other.name, theirs, separation(train, found.log_prob, theirs)))
    return Evaluation(
        images.name,
        found,
        train,
        limits(train, quantile, two_sided=two_sided),
        quantile,
        bits_per_dim(key, source, images.pixels) if images.is_8_bit else None,
        _adjusted_rand(images.labels, found),
        compared,
    )


def write(folder: Path, source: Source, images: Images, found: Evaluation) -> None:
    """The scores of every example, the summary and the pictures. Raises InputError if they cannot be written."""
    outside = found.limits.outside(found.scores.log_prob)
    shown = {"training data": found.train, found.name: found.scores.log_prob}
    shown |= {other.name: other.log_prob for other in found.others}
    with faults(f"write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    arrays(folder / SCORES, {**found.scores._asdict(), "component": found.component, "anomaly": outside}, PROG)
    write_json(folder / SUMMARY, {"made_by": PROG, **found.summary()})
    with picture(folder / LOG_PROB, PROG) as path:
        fits.log_probs(path, shown, found.limits)
    if is_image(source.shape):
        with picture(folder / CLUSTERS, PROG) as path:
            clusters(path, rescale(images.pixels), found.scores.responsibilities)
    print("\n".join(str(folder / name) for name in OUTPUTS if (folder / name).exists()))


def reference_log_probs(run: Path, config: dict[str, Any], source: Source, seed: int) -> np.ndarray:
    """The log-densities of the training data of a run, or of draws where a model was saved without its data."""
    if "options" not in config:
        draws = source.sample(jax.random.key(seed), DRAWS)
        print(f"the model was saved without its training data: {DRAWS:,} draws of it stand for them")
        return log_probs(source, np.asarray(source.to_pixels(draws)))
    found = read_other(run, config, TRAIN_LOG_PROB)
    if found is None:
        raise InputError(
            f"{run} does not hold the log-likelihoods of its training data: it was fitted with --residual none, which "
            "has no density, or by an older version. Fit it again."
        )
    return found


def _adjusted_rand(labels: np.ndarray | None, found: Scores) -> float | None:
    if labels is None:
        return None
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(labels, found.responsibilities.argmax(axis=1)))


def _mean(log_prob: np.ndarray) -> float:
    return float(log_prob.mean(dtype=np.float64))
