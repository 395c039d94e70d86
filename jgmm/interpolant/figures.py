"""Pictures of paths between mixtures in the plane."""

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jgmm.errors import check
from jgmm.figures.style import BLUE, GRAY, ORANGE, styled
from jgmm.interpolant.paths import Path, log_prob, posterior, sample, velocity
from jgmm.interpolant.solvers import transport

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Points of the grid on a side, and arrows on a side.
FINE, COARSE = 120, 18


class Window:
    """The part of the plane that holds nearly all of a path, and a grid on it."""

    def __init__(self, path: Path):
        check(path.d == 2, f"pictures are of paths in the plane, got {path.d} features.")
        x0, x1, _ = sample(jax.random.key(0), path, 0.0, 2000)
        points = np.concatenate([x0, x1])
        low, high = np.quantile(points, [0.001, 0.999], axis=0)
        margin = 0.1 * (high - low)
        low, high = low - margin, high + margin
        self.extent = (low[0], high[0], low[1], high[1])

    def grid(self, side: int) -> jnp.ndarray:
        """[side², 2] points."""
        x, y = np.meshgrid(np.linspace(*self.extent[:2], side), np.linspace(*self.extent[2:], side))
        return jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), jnp.float32)

    def show(self, axes: Axes, values: np.ndarray, **options: Any) -> None:
        """An image of values on the grid."""
        side = int(np.sqrt(len(values)))
        axes.imshow(values.reshape(side, side, *values.shape[1:]), origin="lower", extent=self.extent, **options)
        axes.set(xlim=self.extent[:2], ylim=self.extent[2:], xticks=[], yticks=[], aspect="equal")


@styled
def densities(file: FilePath, paths: Mapping[str, Path], times: Sequence[float] = TIMES) -> None:
    """The densities p_t along each path, one path a row."""
    figure, panels = _panels(len(paths), len(times))
    for row, (name, path) in zip(panels, paths.items(), strict=True):
        window = Window(path)
        grid = window.grid(FINE)
        for axes, t in zip(row, times, strict=True):
            window.show(axes, np.exp(np.asarray(log_prob(path, t, grid))), cmap="Blues")
            axes.set_title(f"t = {t:g}")
        row[0].set_ylabel(name)
    figure.savefig(file)


@styled
def velocities(file: FilePath, paths: Mapping[str, Path], times: Sequence[float] = TIMES) -> None:
    """Arrows of u_t over the density, where there is any, one path a row."""
    figure, panels = _panels(len(paths), len(times))
    for row, (name, path) in zip(panels, paths.items(), strict=True):
        window = Window(path)
        fine, coarse = window.grid(FINE), np.asarray(window.grid(COARSE))
        for axes, t in zip(row, times, strict=True):
            density = np.exp(np.asarray(log_prob(path, t, fine)))
            window.show(axes, density, cmap="Blues")
            there = np.asarray(log_prob(path, t, jnp.asarray(coarse))) > np.log(density.max()) - 6
            u = np.asarray(velocity(path, t, jnp.asarray(coarse)))
            axes.quiver(*coarse[there].T, *u[there].T, color=ORANGE, angles="xy", width=0.006)
            axes.set_title(f"t = {t:g}")
        row[0].set_ylabel(name)
    figure.savefig(file)


@styled
def trajectories(file: FilePath, paths: Mapping[str, Path], n: int = 150) -> None:
    """Where the flow takes draws of the source, one path a panel."""
    figure, panels = _panels(1, len(paths), size=3.2)
    for axes, (name, path) in zip(panels[0], paths.items(), strict=True):
        window = Window(path)
        window.show(axes, np.exp(np.asarray(log_prob(path, 1.0, window.grid(FINE)))), cmap="Blues", alpha=0.7)
        x0, _, _ = sample(jax.random.key(1), path, 0.0, n)
        times = jnp.linspace(0, 1, 50, dtype=x0.dtype)
        x = np.asarray(transport(path, x0, times=times).x)
        axes.plot(x[:, :, 0], x[:, :, 1], color=GRAY, lw=0.5, alpha=0.6)
        axes.plot(*x[0].T, ".", color=ORANGE, ms=3, label="t = 0")
        axes.plot(*x[-1].T, ".", color=BLUE, ms=3, label="t = 1")
        axes.set_title(name)
    panels[0][0].legend(frameon=False, loc="upper left")
    figure.savefig(file)


@styled
def posteriors(file: FilePath, path: Path, times: Sequence[float] = TIMES) -> None:
    """Which pair a point belongs to: α_l(x) as colors, fading with the density."""
    figure, panels = _panels(1, len(times))
    window = Window(path)
    grid = window.grid(FINE)
    hues = np.arange(len(path.log_weights)) / len(path.log_weights)
    colors = 0.55 + 0.45 * np.cos(2 * np.pi * (hues[:, None] + np.array([[0, 1 / 3, 2 / 3]])))
    for axes, t in zip(panels[0], times, strict=True):
        alpha = np.asarray(posterior(path, t, grid))
        log_density = np.asarray(log_prob(path, t, grid))
        shade = np.clip(1 + (log_density - log_density.max()) / 8, 0, 1)[:, None]
        window.show(axes, np.clip(1 - shade + shade * (alpha @ colors), 0, 1))
        axes.set_title(f"t = {t:g}")
    figure.savefig(file)


@styled
def animation(file: FilePath, path: Path, frames: int = 40, n: int = 300) -> None:
    """The density and draws carried by the flow, as a GIF."""
    window = Window(path)
    grid = window.grid(FINE)
    x0, _, _ = sample(jax.random.key(1), path, 0.0, n)
    times = jnp.linspace(0, 1, frames, dtype=x0.dtype)
    x = np.asarray(transport(path, x0, times=times).x)
    left, right, bottom, top = window.extent
    height = 4.0 * min(2.0, max(0.4, (top - bottom) / (right - left)))
    axes = (figure := Figure(figsize=(4.2, height + 0.4), layout="constrained")).subplots()

    def draw(i: int) -> None:
        axes.clear()
        window.show(axes, np.exp(np.asarray(log_prob(path, times[i], grid))), cmap="Blues")
        axes.plot(*x[i].T, ".", color=ORANGE, ms=3)
        axes.set_title(f"t = {float(times[i]):.2f}")

    FuncAnimation(figure, draw, frames=frames).save(file, writer=PillowWriter(fps=15), dpi=90)


@styled
def learned_error(file: FilePath, times: np.ndarray, errors: Mapping[str, np.ndarray]) -> None:
    """The relative error of learned fields over t."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(errors.items(), (BLUE, ORANGE, GRAY), strict=False):
        axes.plot(times, 100 * np.asarray(values), ".-", color=color, label=name)
    axes.set(xlabel="t", ylabel="relative error of the velocity (%)", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(file)


def _panels(rows: int, columns: int, size: float = 2.2) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(size * columns, (size + 0.15) * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
