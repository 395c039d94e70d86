"""Pictures of images: means, draws, clusters, completions, and the way along a flow."""

from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from jgmm.data.images import is_image
from jgmm.figures.style import BLUE, GRAY, MOST, show_image, styled, tile


@styled
def components(
    path: Path,
    means: np.ndarray,
    deviations: np.ndarray,
    draws: np.ndarray,
    weights: np.ndarray,
    k: int,
    name: str = "Components",
) -> None:
    """What components are, a row each: the mean, where it varies (the deviation of every pixel as a share of that of
    all images: gray where it is as elsewhere in the component, white where it is 1.4 times that or more), and draws.

    means, deviations: [S, H, W, C] in [-1, 1], and as multiples of the deviations of all images.
    draws: [S, M, H, W, C]. weights: [S] of these components. k: the number of all.
    """
    shares = np.log2(deviations.mean(axis=-1, keepdims=True))
    maps = np.broadcast_to(2 * (shares - shares.mean(axis=(1, 2), keepdims=True)), means.shape)
    rows = np.concatenate([means[:, None], maps[:, None], draws], axis=1)  # (S, 2 + M, H, W, C)
    halves = np.array_split(np.arange(len(rows)), 2 if len(rows) > 1 else 1)
    figure = Figure(figsize=(9.6, 0.58 * len(halves[0]) + 0.6), layout="constrained")
    shown = f", the {len(rows)} heaviest of {k}" if len(rows) < k else ""
    figure.suptitle(f"{name}{shown}: weight (%), mean, where it varies, draws", fontsize=10)
    for axes, half in zip(figure.subplots(1, len(halves), squeeze=False)[0], halves, strict=True):
        show_image(axes, tile(rows[half].reshape(-1, *means.shape[1:]), rows.shape[1]))
        height = means.shape[1] + 1
        for i, weight in enumerate(weights[half]):
            axes.text(-2, (i + 0.5) * height, f"{100 * weight:.2g}", fontsize=7, ha="right", va="center")
    figure.savefig(path)


@styled
def component_means(path: Path, means: np.ndarray) -> None:
    """The means [K, D] of components, as rows of a heat map."""
    figure = Figure(figsize=(6, 0.8 + 0.08 * len(means)))
    axes = figure.subplots()
    image = axes.imshow(means, aspect="auto", cmap="viridis")
    axes.set(xlabel="feature", ylabel="component, heaviest first", title="Component means")
    figure.colorbar(image)
    figure.savefig(path)


@styled
def samples_beside_data(path: Path, samples: np.ndarray, data: np.ndarray) -> None:
    """A grid of draws from the mixture beside a grid of data, both in pixel units; plain vectors as a scatter plot."""
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    if not is_image(data.shape[1:]):
        axes = figure.subplots()
        for points, color, label in ((data, GRAY, "data"), (samples, BLUE, "samples")):
            flat = points.reshape(len(points), -1)
            axes.plot(flat[:, 0], flat[:, min(1, flat.shape[1] - 1)], ".", ms=3, color=color, label=label)
        axes.set(xlabel="feature 0", ylabel="feature 1", title="Samples and data")
        axes.legend(frameon=False)
        figure.savefig(path)
        return
    left, right = figure.subplots(1, 2)
    columns = int(np.ceil(np.sqrt(min(len(samples), MOST))))
    show_image(left, tile(samples[:MOST], columns), "Samples of the mixture")
    show_image(right, tile(data[:MOST], columns), "Data")
    figure.savefig(path)


@styled
def sample_grid(path: Path, samples: np.ndarray) -> None:
    """A grid of draws in pixel units, nothing around it, four screen pixels for one of theirs."""
    picture = tile(samples, int(np.ceil(np.sqrt(len(samples)))))
    picture = picture.repeat(4, axis=0).repeat(4, axis=1)
    matplotlib.image.imsave(path, np.broadcast_to(picture, (*picture.shape[:2], 3)))


@styled
def label_scales(path: Path, images: np.ndarray, scales: np.ndarray) -> None:
    """Images above the deviations of their blocks, as their labels have them: white where an image is busy.

    images: [N, H, W, C] in [-1, 1]. scales: [N, down, across], of whitened codes.
    """
    black, white = np.quantile(scales, [0.02, 0.98])
    gray = 2 * np.log(scales / black) / max(np.log(white / black), 1e-6) - 1
    down, across = (images.shape[i] // scales.shape[i] for i in (1, 2))
    maps = gray.repeat(down, axis=1).repeat(across, axis=2)[..., None]
    rows = np.concatenate([images, np.broadcast_to(maps, images.shape)])
    figure = Figure(figsize=(0.9 * len(images), 2.2), layout="constrained")
    title = f"Images, and the deviation of each block (black {black:.2g}, white {white:.2g})"
    show_image(figure.subplots(), tile(rows, len(images)), title)
    figure.savefig(path)


@styled
def clusters(path: Path, images: np.ndarray, responsibilities: np.ndarray, rows: int = 10, columns: int = 12) -> None:
    """A row for each of the largest clusters: the images that belong to it most surely.

    images: [N, H, W, C] in [-1, 1]. responsibilities: [N, K].
    """
    labels = responsibilities.argmax(axis=1)
    counts = np.bincount(labels, minlength=responsibilities.shape[1])
    largest = [k for k in np.argsort(-counts)[:rows] if counts[k]]
    picture = np.full((len(largest) * columns, *images.shape[1:]), 1.0, np.float32)
    for i, k in enumerate(largest):
        members = np.flatnonzero(labels == k)
        best = members[np.argsort(-responsibilities[members, k], kind="stable")[:columns]]
        picture[i * columns : i * columns + len(best)] = images[best]
    figure = Figure(figsize=(7, 0.4 + 0.58 * len(largest)), layout="constrained")
    axes = figure.subplots()
    title = f"The {len(largest)} largest of {(counts > 0).sum()} clusters, one per row"
    show_image(axes, tile(picture, columns), title)
    figure.savefig(path)


@styled
def completions(path: Path, images: np.ndarray, known: np.ndarray, mean: np.ndarray, draws: np.ndarray) -> None:
    """Images completed from a part: a column an image, with rows for the image, what was known of it, the mean of what
    was not, and draws.

    images, mean: [N, H, W, C] in [-1, 1]. known: [H, W, C]. draws: [N, S, H, W, C].
    """
    given = np.where(known[None], images, 0)
    rows = [images, given, mean, *draws.swapaxes(0, 1)]
    names = ["image", "known", "mean", *[f"draw {i + 1}" for i in range(draws.shape[1])]]
    n = len(images)
    figure = Figure(figsize=(0.9 * n + 0.8, 0.92 * len(rows)), layout="constrained")
    for axes, row, name in zip(figure.subplots(len(rows), 1), rows, names, strict=True):
        show_image(axes, tile(row, n))
        axes.axis("on")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
    figure.savefig(path)


@styled
def trajectories(path: Path, frames: np.ndarray, times: np.ndarray) -> None:
    """The way of images along a flow: a column a time, a row an image. frames: [T, N, H, W, C] in [-1, 1]."""
    figure = Figure(figsize=(0.9 * len(frames), 0.92 * frames.shape[1] + 0.3), layout="constrained")
    for axes, column, t in zip(figure.subplots(1, len(frames)), frames, times, strict=True):
        show_image(axes, tile(column, 1), f"t = {t:.2g}")
    figure.savefig(path)
