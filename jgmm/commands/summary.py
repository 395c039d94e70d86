"""What a finished fit says of itself: figures and pictures."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jgmm.commands.codes import Codes
from jgmm.commands.inputs import Data
from jgmm.commands.progress import CompileClock, peak_memory_gib
from jgmm.covariance.prior import Prior
from jgmm.data import Images, rescale
from jgmm.data.images import is_image
from jgmm.em.loop import EMState
from jgmm.em.rows import Rows
from jgmm.em.steps import objective
from jgmm.encoder.base import decode_means
from jgmm.encoder.pca import Spectrum
from jgmm.figures import fits, images
from jgmm.metrics.likelihood import log_probs, mean_log_prob, to_bits
from jgmm.mixture import GMM
from jgmm.numerics.processes import of_all, over_processes
from jgmm.product.mixture import ProductMixture
from jgmm.source import Source, normalize, pixel_moments

# Streams of random numbers, folded into the key of the summary.
DEQUANTIZATION, PICTURES, COMPONENTS = range(3)
# Images shown of all draws, components that are shown, and draws of each.
SHOWN, ROWS, DRAWS = 100, 20, 6
# Images whose labels are shown.
COLUMNS = 12
# Draws that tell where a class varies.
DRAWS_OF_CLASS = 256


def summarize(
    key: Array,
    source: Source,
    data: Data,
    codes: Codes,
    of_codes: float | None,
    goes_on: bool,
    state: EMState,
    seconds: list[float],
    clock: CompileClock,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The figures of the exit summary, and the log-density of every training image where there is one; of the images
    of all processes. `of_codes` is the mean log-density of the training codes, where that is known, `goes_on` whether
    a fit like this one can be resumed."""
    counts = np.asarray(state.counts)
    summary: dict[str, Any] = {
        "iterations": len(state.history),
        "converged": state.converged,
        "revived": state.revived,
        "smallest_component": float(counts.min()),
        "blocks": codes.n_blocks,
        "scales": source.gmm.k // len(counts),
        "goes_on": source.gmm.k == len(counts) and goes_on,
        "pairs": state.pairs,
        "dropped": state.dropped,
    }
    log_prob = {}
    if source.encoder.has_density:
        noise = jax.random.fold_in(key, DEQUANTIZATION)
        parts = {"train": data.train} | ({"held_out": data.held_out} if data.held_out else {})
        for part, examples in parts.items():
            log_prob[part] = log_probs(source, examples.pixels)
            summary[f"log_likelihood_{part}"] = _mean(log_prob[part], examples.weight)
            if part == "train" and codes.noisy:
                known = mean_log_prob(source.gmm, codes.values) if of_codes is None else of_codes
                summary["bits_per_dim_train"] = to_bits(known + codes.offset, source.shape)
            elif data.train.is_8_bit:
                noisy = log_probs(source, examples.pixels, key=jax.random.fold_in(noise, jax.process_index()))
                summary[f"bits_per_dim_{part}"] = to_bits(_mean(noisy, examples.weight), source.shape)
        log_prob["train"] = of_all(log_prob["train"])
    else:
        summary["log_likelihood_of_codes"] = state.log_likelihoods[-1]  # before the last M-step
    summary |= {
        "seconds_per_iteration": float(np.median(seconds)) if seconds else None,
        "compile_seconds": clock.seconds,
        "peak_memory_gib": peak_memory_gib(),
    }
    return summary, log_prob.get("train")


def mean_of_codes(gmm: GMM, rows: Rows) -> float:
    """The mean log-density of the rows that a mixture was fitted to, nats a row."""
    total, _ = objective(gmm, rows, Prior(), with_prior=False)
    return float(total) / float(rows.total)


def _mean(values: np.ndarray, weight: np.ndarray | None) -> float:
    """The mean over the images of all processes, of which each counts so often."""
    often = np.ones(len(values)) if weight is None else weight
    total, count = over_processes(np.array([often @ values.astype(np.float64), often.sum()]))
    return float(total / count)


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
    pixels = np.asarray(source.to_pixels(source.sample(jax.random.fold_in(key, PICTURES), SHOWN)))
    chosen = np.random.default_rng(0).choice(len(train), min(SHOWN, len(train)), replace=False)
    shown = rescale(train.pixels[chosen])
    paths = [folder / f"{name}.png" for name in ("components", "samples", "likelihood", "spectrum")]
    draw_components(paths[0], jax.random.fold_in(key, COMPONENTS), source)
    images.samples_beside_data(paths[1], pixels, shown)
    fits.likelihood(paths[2], history, converged)
    if spectrum is None:
        paths.pop()
    else:
        fits.spectrum(paths[3], spectrum.variances, spectrum.n_codes)
    if isinstance(source.gmm, ProductMixture) and is_image(source.shape):
        paths.append(folder / "labels.png")
        draw_label_scales(paths[-1], source, source.gmm, shown[:COLUMNS])
    return paths


def draw_label_scales(path: Path, source: Source, gmm: ProductMixture, pixels: np.ndarray) -> None:
    """A picture of what the labels of blocks of images say of their scale: exp E[log s | image], where s² is the mean
    variance of a component."""
    codes = source.encoder.encode(jnp.asarray(pixels.reshape(len(pixels), -1), gmm.dtype))
    (part,), block = gmm.parts, math.isqrt(gmm.parts[0].d // source.shape[2])
    logs = 0.5 * jnp.log(part.covariance.variance().mean(axis=1))
    scales = np.exp(np.asarray(gmm.responsibilities(codes) @ jnp.broadcast_to(logs, gmm.k)))
    images.label_scales(path, pixels, scales.reshape(-1, source.shape[0] // block, source.shape[1] // block))


def draw_components(path: Path, key: Array, source: Source) -> None:
    """A picture of the heaviest components: images with what they vary in and draws, vectors by their means."""
    gmm = source.gmm
    if isinstance(gmm, ProductMixture):
        draw_classes(path, key, source, gmm)
        return
    weights = np.asarray(gmm.weights)
    order = np.argsort(-weights)
    means = np.asarray(decode_means(source.encoder, gmm)).reshape(-1, *source.shape)
    if not is_image(source.shape):
        images.component_means(path, means.reshape(gmm.k, -1)[order[:SHOWN]])
        return
    order = order[:ROWS]
    _, everywhere = pixel_moments(normalize(source, "none"))
    variance = np.broadcast_to(source.encoder.image_variance(gmm.covariance), (gmm.k, means[0].size))
    relative = np.sqrt(variance.reshape(-1, *source.shape) / np.asarray(everywhere)[None])
    keys = jax.random.split(key, len(order))
    draws = jax.vmap(lambda key, k: source.sample(key, DRAWS, component=k))(keys, jnp.asarray(order))
    pixels = np.asarray(source.to_pixels(draws))
    images.components(path, means[order], relative[order], pixels, weights[order], gmm.k)


def draw_classes(path: Path, key: Array, source: Source, gmm: ProductMixture) -> None:
    """The same picture of the heaviest classes of a product of block mixtures, where they vary by many draws."""
    weights = np.exp(np.asarray(gmm.labels.root))
    order = np.argsort(-weights)[:ROWS]

    @jax.jit
    def draws_of(key: Array, s: Array) -> Array:
        one = replace(source, gmm=gmm.given_class(s))
        return one.to_pixels(one.sample(key, DRAWS_OF_CLASS))

    keys = jax.random.split(key, len(order))
    draws = np.stack([np.asarray(draws_of(key, jnp.asarray(s))) for key, s in zip(keys, order, strict=True)])
    if not is_image(source.shape):
        images.component_means(path, draws.mean(axis=1).reshape(len(order), -1))
        return
    _, everywhere = pixel_moments(normalize(source, "none"))
    relative = draws.std(axis=1) / np.sqrt(np.asarray(everywhere))
    shown = draws.mean(axis=1), relative, draws[:, :DRAWS], weights[order]
    images.components(path, *shown, len(weights), "Classes")


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
    further = further if summary["goes_on"] else "raise --max-iter"
    one, rows = ("an image", "images") if summary["blocks"] == 1 else ("a block", "blocks of images")
    state = "converged" if summary["converged"] else f"NOT converged; {further}"
    print(f"\n{summary['iterations']} iterations, {state}")
    for name, words in names.items():
        if name in summary:
            unit = "" if name.startswith("bits") else " nats per image"
            print(f"{words}: {summary[name]:.4f}{unit}")
    print(
        f"smallest component: {summary['smallest_component']:.1f} {rows}; {summary['revived']} were given a new place"
    )
    if summary["pairs"] > 0:
        print(
            f"responsibilities that took part: {summary['pairs']:.2f} {one}; "
            f"the others sum to at most {summary['dropped']:.0e} of one"
        )
    if summary["seconds_per_iteration"] is not None:
        print(
            f"seconds per iteration: {summary['seconds_per_iteration']:.3f} (median), "
            f"compiling: {summary['compile_seconds']:.1f} s, command: {summary['command_seconds']:.1f} s, "
            f"peak memory: {summary['peak_memory_gib']:.2f} GiB"
        )
    print(f"run: {folder}\npictures: " + "  ".join(str(p) for p in pictures))
