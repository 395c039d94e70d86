"""What a finished fit says of itself: figures and pictures."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jgmm.commands.inputs import Data
from jgmm.commands.progress import CompileClock, peak_memory_gib
from jgmm.data import Images, rescale
from jgmm.em.loop import EMState
from jgmm.encoder.base import decode_means
from jgmm.encoder.pca import Spectrum
from jgmm.figures import fits, images
from jgmm.metrics.likelihood import bits_per_dim, log_probs
from jgmm.source import Source

# Streams of random numbers, folded into the key of the summary.
DEQUANTIZATION, PICTURES = range(2)
SHOWN = 100


def summarize(
    key: Array, source: Source, data: Data, state: EMState, seconds: list[float], clock: CompileClock
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The figures of the exit summary, and the log-density of every training image where there is one."""
    counts = np.asarray(state.counts)
    summary: dict[str, Any] = {
        "iterations": len(state.history),
        "converged": state.converged,
        "revived": state.revived,
        "smallest_component": float(counts.min()),
        "pairs": state.pairs,
        "dropped": state.dropped,
    }
    log_prob = {}
    if source.encoder.has_density:
        noise = jax.random.fold_in(key, DEQUANTIZATION)
        parts = {"train": data.train.pixels} | ({"held_out": data.held_out.pixels} if data.held_out else {})
        for part, pixels in parts.items():
            log_prob[part] = log_probs(source, pixels)
            summary[f"log_likelihood_{part}"] = float(log_prob[part].mean(dtype=np.float64))
            if data.train.is_8_bit:
                summary[f"bits_per_dim_{part}"] = bits_per_dim(noise, source, pixels)
    else:
        summary["log_likelihood_of_codes"] = state.log_likelihoods[-1]  # before the last M-step
    summary |= {
        "seconds_per_iteration": float(np.median(seconds)) if seconds else None,
        "compile_seconds": clock.seconds,
        "peak_memory_gib": peak_memory_gib(),
    }
    return summary, log_prob.get("train")


def draw_pictures(
    folder: Path,
    key: Array,
    source: Source,
    train: Images,
    spectrum: Spectrum | None,
    history: list[float],
    converged: bool,
) -> list[Path]:
    """The pictures of a run, in its folder."""
    means = decode_means(source.encoder, source.gmm)
    pixels = np.asarray(source.to_pixels(source.sample(jax.random.fold_in(key, PICTURES), SHOWN)))
    chosen = np.random.default_rng(0).choice(len(train), min(SHOWN, len(train)), replace=False)
    shown = rescale(train.pixels[chosen])
    paths = [folder / f"{name}.png" for name in ("means", "samples", "likelihood", "spectrum")]
    images.component_means(paths[0], np.asarray(means).reshape(-1, *train.shape), np.asarray(source.gmm.weights))
    images.samples_beside_data(paths[1], pixels, shown)
    fits.likelihood(paths[2], history, converged)
    if spectrum is None:
        return paths[:3]
    fits.spectrum(paths[3], spectrum.variances, spectrum.n_codes)
    return paths


def show(summary: dict[str, Any], folder: Path, pictures: list[Path]) -> None:
    """Print the exit summary and where the pictures are."""
    names = {
        "log_likelihood_train": "mean log-likelihood, training images",
        "log_likelihood_held_out": "mean log-likelihood, held-out images",
        "log_likelihood_of_codes": "mean log-likelihood of the codes",
        "bits_per_dim_train": "bits per dimension, training images with uniform noise",
        "bits_per_dim_held_out": "bits per dimension, held-out images with uniform noise",
    }
    further = f"go on with: python -m jgmm.fit --out {folder} --resume --max-iter {2 * summary['iterations']}"
    state = "converged" if summary["converged"] else f"NOT converged; {further}"
    print(f"\n{summary['iterations']} iterations, {state}")
    for name, words in names.items():
        if name in summary:
            unit = "" if name.startswith("bits") else " nats per image"
            print(f"{words}: {summary[name]:.4f}{unit}")
    print(
        f"smallest component: {summary['smallest_component']:.1f} images; {summary['revived']} were given a new place"
    )
    print(
        f"responsibilities that took part: {summary['pairs']:.2f} an image; "
        f"the others sum to at most {summary['dropped']:.0e} of one"
    )
    if summary["seconds_per_iteration"] is not None:
        print(
            f"seconds per iteration: {summary['seconds_per_iteration']:.3f} (median), "
            f"compiling: {summary['compile_seconds']:.1f} s, command: {summary['command_seconds']:.1f} s, "
            f"peak memory: {summary['peak_memory_gib']:.2f} GiB"
        )
    print(f"run: {folder}\npictures: " + "  ".join(str(p) for p in pictures))
