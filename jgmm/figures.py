"""Pictures of mixtures and fits. The only file that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from jgmm import distribution
from jgmm.checks import check
from jgmm.mixture import GMM

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
COLOURS = (BLUE, ORANGE, GREY, "#2c8a4b", "#8a2c6b", "#b8a200")
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


def density(path: Path, gmm: GMM, points: np.ndarray | None = None) -> None:
    """A mixture in the plane: its density, and the ellipses of one and two standard deviations of every component. With
    points [N, 2], a second panel shows them in the mixed colours of their soft assignments.

    Raises InputError unless the mixture has two features.
    """
    check(gmm.d == 2, f"this picture is of mixtures with two features, got {gmm.d}.")
    shown = np.asarray(gmm.means) if points is None else np.concatenate([points, gmm.means])
    reach = 3 * np.sqrt(np.asarray(distribution.variance(gmm)).max()) if points is None else 0.1 * np.ptp(shown)
    (x0, y0), (x1, y1) = shown.min(axis=0) - reach, shown.max(axis=0) + reach
    x, y = np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200))
    grid = jnp.asarray(np.stack([x, y], axis=-1), gmm.means.dtype)
    figure = Figure(figsize=(4.6 if points is None else 8.6, 4), layout="constrained")
    panels = figure.subplots(1, 1 if points is None else 2, squeeze=False)[0]
    filled = panels[0].contourf(x, y, np.exp(np.asarray(distribution.log_prob(gmm, grid))), levels=20, cmap="Blues")
    figure.colorbar(filled, ax=panels[0], label="density")
    hues = _hues(gmm.k)
    for axes in panels:
        _ellipses(axes, gmm, hues)
        axes.set(xlim=(x0, x1), ylim=(y0, y1), xlabel="feature 0", ylabel="feature 1")
    panels[0].set_title(f"Density of {gmm.k} component(s)")
    if points is not None:
        r = np.asarray(distribution.responsibilities(gmm, jnp.asarray(points, gmm.means.dtype)))
        panels[1].scatter(*points.T, c=np.clip(r @ hues, 0, 1), s=6)
        panels[1].set_title("Data, coloured by soft assignment")
    figure.savefig(path)


def _hues(k: int) -> np.ndarray:
    """[k, 3] colours that differ as much as they can."""
    angle = np.arange(k)[:, None] / k + np.array([[0, 1 / 3, 2 / 3]])
    return 0.45 + 0.4 * np.cos(2 * np.pi * angle)


def _ellipses(axes: Axes, gmm: GMM, hues: np.ndarray) -> None:
    covariances = np.broadcast_to(np.asarray(gmm.covariance.dense()), (gmm.k, 2, 2))
    for mean, covariance, hue in zip(np.asarray(gmm.means), covariances, hues, strict=True):
        variances, axes_of = np.linalg.eigh(covariance)
        turn = np.degrees(np.arctan2(axes_of[1, 1], axes_of[0, 1]))
        for deviations in (1, 2):
            height, width = 2 * deviations * np.sqrt(np.maximum(variances, 0))
            axes.add_patch(Ellipse(mean, width, height, angle=turn, fill=False, color=hue, lw=1.2 / deviations))


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
    _show(axes, tile(picture, columns), f"The {len(largest)} largest of {(counts > 0).sum()} clusters, one a row")
    figure.savefig(path)


def sweep(path: Path, rows: Sequence[Any], best: tuple[str, int], criterion: str) -> None:
    """Log-likelihoods (as gains over the first fit, so that training and held-out data share an axis), information
    criteria and seconds over the number of components, a colour a covariance family; the best fit is circled where it
    was judged. rows: `jgmm.selection.Row`."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    first = rows[0]
    for family, colour in zip(dict.fromkeys(row.covariance_type for row in rows), COLOURS, strict=False):
        mine = sorted((row for row in rows if row.covariance_type == family), key=lambda row: row.k)
        k = [row.k for row in mine]
        gains = {part: [getattr(row, part) - getattr(first, part) for row in mine] for part in ("held_out", "train")}
        curves = (
            (panels[0], gains["held_out"], "o-", family),
            (panels[0], gains["train"], ":", None),
            (panels[1], [row.bic for row in mine], "o-", f"{family}, BIC"),
            (panels[1], [row.aic for row in mine], ":", f"{family}, AIC"),
            (panels[2], [row.seconds for row in mine], "o-", family),
        )
        for axes, values, style, label in curves:
            axes.plot(k, values, style, color=colour, ms=3.5, lw=1.2, label=label)
        judged = {"held-out": curves[0], "bic": curves[2], "aic": curves[3]}[criterion]
        if family == best[0]:
            judged[0].plot(best[1], judged[1][k.index(best[1])], "o", ms=11, mfc="none", color="k")
    panels[0].set(
        title="Log-likelihood: kept out, and training (dotted)",
        ylabel=f"gain over {first.covariance_type}, K={first.k}: nats an example",
    )
    panels[1].set(title="Information criteria, lower is better")
    panels[2].set(title="Time", ylabel="seconds", yscale="log")
    for axes in panels:
        axes.set(xscale="log", xlabel="components")
        axes.set_xticks(sorted({row.k for row in rows}), labels=sorted({row.k for row in rows}), minor=False)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path)


def log_probs(path: Path, of: Mapping[str, np.ndarray], limits: tuple[float, float]) -> None:
    """The log-densities of several data sets as histograms, and the limits outside of which they are anomalies."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    # The tails of data that are nothing like the training data may be arbitrarily far away.
    low = min(np.quantile(values, 0.02) for values in of.values())
    high = max(np.quantile(values, 0.98) for values in of.values())
    margin = 0.05 * (high - low)
    bins = np.linspace(low - margin, high + margin, 120).tolist()
    for (name, values), colour in zip(of.items(), COLOURS, strict=False):
        axes.hist(values, bins, density=True, histtype="stepfilled", alpha=0.35, color=colour, label=name)
        axes.hist(values, bins, density=True, histtype="step", color=colour)
    for limit in limits:
        if np.isfinite(limit):
            axes.axvline(limit, color="k", lw=1, ls="--", label=f"limit {limit:.5g}")
    # Data unlike the others may pile up in one place.
    peaks = sorted(float(np.histogram(values, bins, density=True)[0].max()) for values in of.values())
    axes.set(xlabel="log-likelihood, nats an example", ylabel="density", ylim=(0, min(peaks[-1], 3 * peaks[0]) * 1.1))
    axes.legend(frameon=False)
    figure.savefig(path)


def trajectories(path: Path, frames: np.ndarray, times: np.ndarray) -> None:
    """The way of images along a flow: a column a time, a row an image. frames: [T, N, H, W, C] in [-1, 1]."""
    figure = Figure(figsize=(0.9 * len(frames), 0.92 * frames.shape[1] + 0.3), layout="constrained")
    for axes, column, t in zip(figure.subplots(1, len(frames)), frames, times, strict=True):
        _show(axes, tile(column, 1), f"t = {t:.2g}")
    figure.savefig(path)


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
        _show(axes, tile(row, n))
        axes.axis("on")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
    figure.savefig(path)


def calibration(path: Path, levels: Mapping[str, np.ndarray]) -> None:
    """Whether predictive distributions are calibrated, from F(y_n | x_n) of held-out targets: uniform if they are. The
    histogram, and how often the central interval of every nominal probability holds the target."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    nominal = np.linspace(0, 1, 101)
    for (name, level), colour in zip(levels.items(), COLOURS, strict=False):
        flat = np.asarray(level).ravel()
        left.hist(flat, np.linspace(0, 1, 21), density=True, histtype="step", color=colour, label=name)
        inside = [(np.abs(flat - 0.5) <= p / 2).mean() for p in nominal]
        right.plot(nominal, inside, color=colour, label=name)
    left.axhline(1, color="k", lw=0.7, ls=":")
    right.plot([0, 1], [0, 1], color="k", lw=0.7, ls=":")
    left.set(xlabel="F(y | x)", ylabel="density", title="Levels of held-out targets")
    right.set(xlabel="nominal probability", ylabel="observed share", title="Central intervals")
    for axes in (left, right):
        axes.legend(frameon=False)
    figure.savefig(path)


def predictive(
    path: Path, x: np.ndarray, y: np.ndarray, grid: np.ndarray, conditionals: Mapping[str, GMM], quantiles: bool = True
) -> None:
    """p(y | x) of one-dimensional regressions as shades, a panel a model, with the data and the 5%, 50% and 95%
    quantiles.

    x, y: [N]. grid: [G] values of x. conditionals: mixtures of batch shape (G,), one feature.
    """
    margin = 0.1 * np.ptp(y)
    heights = np.linspace(y.min() - margin, y.max() + margin, 240)
    figure = Figure(figsize=(4.4 * len(conditionals), 3.8), layout="constrained")
    panels = figure.subplots(1, len(conditionals), squeeze=False, sharey=True)[0]
    for axes, (name, gmm) in zip(panels, conditionals.items(), strict=True):
        points = jnp.asarray(np.broadcast_to(heights[:, None, None], (len(heights), len(grid), 1)), gmm.means.dtype)
        shade = np.exp(np.asarray(distribution.log_prob(gmm, points)))
        top = np.quantile(shade, 0.995)
        axes.pcolormesh(grid, heights, shade, cmap="Blues", shading="nearest", vmax=top, rasterized=True)
        axes.plot(x, y, ".", color=GREY, ms=2, alpha=0.6)
        if quantiles:
            for q in np.asarray(distribution.quantile(gmm, jnp.array([0.05, 0.5, 0.95], gmm.means.dtype)))[:, :, 0]:
                axes.plot(grid, q, color=ORANGE, lw=1)
        axes.set(xlabel="x", title=name)
    panels[0].set_ylabel("y")
    figure.savefig(path)
