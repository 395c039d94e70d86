"""Pictures of a fit. The only file that imports matplotlib."""

from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "savefig.dpi": 200,
        "savefig.bbox": "tight",
    }
)
BLUE, ORANGE, GREY = "#1f5a93", "#d1691e", "#8a8a8a"
# As many components or images as a page shows legibly.
MOST = 100


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape can be shown as grey or colour images."""
    return len(shape) == 3 and shape[2] in (1, 3)


def tile(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """[N, H, W, C] images in [-1, 1] as one picture in [0, 1], row by row, on white."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    picture = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, c), np.float32)
    for i, image in enumerate(np.clip(images / 2 + 0.5, 0, 1)):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        picture[y : y + h, x : x + w] = image
    return picture


def _show(axes: Axes, picture: np.ndarray, title: str = "") -> None:
    axes.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.axis("off")


def component_means(path: Path, means: np.ndarray, weights: np.ndarray) -> None:
    """The component means in pixels, heaviest first, each with its weight; plain vectors as rows of a heat map.

    means: [K, H, W, C] in [-1, 1], or [K, D]. weights: [K], summing to one.
    """
    order = np.argsort(-weights)[:MOST]
    if not is_image(means.shape[1:]):
        figure = Figure(figsize=(6, 0.8 + 0.08 * len(order)))
        axes = figure.subplots()
        image = axes.imshow(means[order].reshape(len(order), -1), aspect="auto", cmap="viridis")
        axes.set(xlabel="feature", ylabel="component, heaviest first", title="Component means")
        figure.colorbar(image)
        figure.savefig(path)
        return
    columns = min(10, len(order))
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(0.75 * columns, 0.9 * rows + 0.5), layout="constrained")
    shown = f", the {len(order)} heaviest" if len(order) < len(weights) else ""
    figure.suptitle(f"Means and weights (%) of {len(weights)} components{shown}", fontsize=10)
    for axes, k in zip(figure.subplots(rows, columns, squeeze=False).flat, order, strict=False):
        _show(axes, np.clip(means[k] / 2 + 0.5, 0, 1))
        axes.set_title(f"{100 * weights[k]:.2g}", fontsize=7, pad=1.5)
    for axes in figure.axes[len(order) :]:
        axes.axis("off")
    figure.savefig(path)


def samples_beside_data(path: Path, samples: np.ndarray, data: np.ndarray) -> None:
    """A grid of draws from the mixture beside a grid of data, both in pixel units; plain vectors as a scatter plot."""
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    if not is_image(data.shape[1:]):
        axes = figure.subplots()
        for points, colour, label in ((data, GREY, "data"), (samples, BLUE, "samples")):
            flat = points.reshape(len(points), -1)
            axes.plot(flat[:, 0], flat[:, min(1, flat.shape[1] - 1)], ".", ms=3, color=colour, label=label)
        axes.set(xlabel="feature 0", ylabel="feature 1", title="Samples and data")
        axes.legend(frameon=False)
        figure.savefig(path)
        return
    left, right = figure.subplots(1, 2)
    columns = int(np.ceil(np.sqrt(min(len(samples), MOST))))
    _show(left, tile(samples[:MOST], columns), "Samples of the mixture")
    _show(right, tile(data[:MOST], columns), "Data")
    figure.savefig(path)


def sample_grid(path: Path, samples: np.ndarray) -> None:
    """A grid of draws in pixel units, nothing around it, four screen pixels for one of theirs."""
    picture = tile(samples, int(np.ceil(np.sqrt(len(samples)))))
    picture = picture.repeat(4, axis=0).repeat(4, axis=1)
    matplotlib.image.imsave(path, np.broadcast_to(picture, (*picture.shape[:2], 3)))


def spectrum(path: Path, variances: np.ndarray, n_codes: int) -> None:
    """The variances of the principal directions on a logarithmic scale, and the share of the variance explained."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    index = np.arange(1, len(variances) + 1)
    positive = variances > 1e-11 * variances[0]  # the rest is rounding
    left.loglog(index[positive], variances[positive], color=BLUE)
    left.set(xlabel="principal direction", ylabel="variance", title="Spectrum")
    right.semilogx(index, 100 * np.cumsum(variances) / variances.sum(), color=BLUE)
    right.set(xlabel="principal directions", ylabel="variance explained (%)", title="Cumulative", ylim=(0, 101))
    for axes in (left, right):
        axes.axvline(n_codes, color=ORANGE, lw=1, label=f"{n_codes} codes")
        axes.legend(frameon=False)
    figure.savefig(path)


def likelihood(path: Path, history: list[float], converged: bool) -> None:
    """The objective before every iteration of EM, and its change on a logarithmic scale."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(np.arange(1, len(history) + 1), history, ".-", color=BLUE, ms=3, lw=1)
    state = "converged" if converged else "stopped before convergence"
    left.set(xlabel="iteration", ylabel="nats per example", title=f"Objective ({state})")
    left.ticklabel_format(axis="y", useOffset=False)
    change = np.diff(history)
    rising = change > 0
    right.semilogy(np.arange(2, len(history) + 1)[rising], change[rising], ".-", color=BLUE, ms=3, lw=1)
    right.set(xlabel="iteration", ylabel="change, nats per example", title="Change")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path)
