"""Pictures of mixtures: densities and ellipses in the plane, predictive distributions and their calibration."""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from jgmm.errors import check
from jgmm.figures.style import COLORS, GRAY, ORANGE, styled
from jgmm.mixture import GMM


@styled
def density(path: Path, gmm: GMM, points: np.ndarray | None = None) -> None:
    """A mixture in the plane: its density, and the ellipses of one and two standard deviations of every component. With
    points [N, 2], a second panel shows them in the mixed colors of their soft assignments.

    Raises:
        InputError: Unless the mixture has two features.
    """
    check(gmm.d == 2, f"this picture is of mixtures with two features, got {gmm.d}.")
    shown = np.asarray(gmm.means) if points is None else np.concatenate([points, gmm.means])
    reach = 3 * np.sqrt(np.asarray(gmm.variance()).max()) if points is None else 0.1 * np.ptp(shown)
    (x0, y0), (x1, y1) = shown.min(axis=0) - reach, shown.max(axis=0) + reach
    x, y = np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200))
    grid = jnp.asarray(np.stack([x, y], axis=-1), gmm.means.dtype)
    figure = Figure(figsize=(4.6 if points is None else 8.6, 4), layout="constrained")
    panels = figure.subplots(1, 1 if points is None else 2, squeeze=False)[0]
    filled = panels[0].contourf(x, y, np.exp(np.asarray(gmm.log_prob(grid))), levels=20, cmap="Blues")
    figure.colorbar(filled, ax=panels[0], label="density")
    hues = _hues(gmm.k)
    for axes in panels:
        _ellipses(axes, gmm, hues)
        axes.set(xlim=(x0, x1), ylim=(y0, y1), xlabel="feature 0", ylabel="feature 1")
    panels[0].set_title(f"Density of {gmm.k} component{'s' if gmm.k > 1 else ''}")
    if points is not None:
        r = np.asarray(gmm.responsibilities(jnp.asarray(points, gmm.means.dtype)))
        panels[1].scatter(*points.T, c=np.clip(r @ hues, 0, 1), s=6)
        panels[1].set_title("Data, colored by soft assignment")
    figure.savefig(path)


def _hues(k: int) -> np.ndarray:
    """[k, 3] colors that differ as much as they can."""
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


@styled
def calibration(path: Path, levels: Mapping[str, np.ndarray]) -> None:
    """Whether predictive distributions are calibrated, from F(y_n | x_n) of held-out targets: uniform if they are. The
    histogram, and how often the central interval of every nominal probability holds the target."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    nominal = np.linspace(0, 1, 101)
    for (name, level), color in zip(levels.items(), COLORS, strict=False):
        flat = np.asarray(level).ravel()
        left.hist(flat, np.linspace(0, 1, 21), density=True, histtype="step", color=color, label=name)
        inside = [(np.abs(flat - 0.5) <= p / 2).mean() for p in nominal]
        right.plot(nominal, inside, color=color, label=name)
    left.axhline(1, color="k", lw=0.7, ls=":")
    right.plot([0, 1], [0, 1], color="k", lw=0.7, ls=":")
    left.set(xlabel="F(y | x)", ylabel="density", title="Levels of held-out targets")
    right.set(xlabel="nominal probability", ylabel="observed share", title="Central intervals")
    for axes in (left, right):
        axes.legend(frameon=False)
    figure.savefig(path)


@styled
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
        shade = np.exp(np.asarray(gmm.log_prob(points)))
        top = np.quantile(shade, 0.995)
        axes.pcolormesh(grid, heights, shade, cmap="Blues", shading="nearest", vmax=top, rasterized=True)
        axes.plot(x, y, ".", color=GRAY, ms=2, alpha=0.6)
        if quantiles:
            for q in np.asarray(gmm.quantile(jnp.array([0.05, 0.5, 0.95], gmm.means.dtype)))[:, :, 0]:
                axes.plot(grid, q, color=ORANGE, lw=1)
        axes.set(xlabel="x", title=name)
    panels[0].set_ylabel("y")
    figure.savefig(path)
