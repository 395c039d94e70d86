"""Pictures of a fit: the spectrum, the likelihood over iterations, comparisons, anomalies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jgmm.figures.style import BLUE, COLORS, ORANGE, styled


@styled
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


@styled
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


@styled
def comparison(path: Path, rows: Sequence[Any], best: tuple[str, int], criterion: str) -> None:
    """Log-likelihoods (as gains over the first fit, so that training and held-out data share an axis), information
    criteria and seconds over the number of components, a color a covariance family; the best fit is circled where it
    was judged. rows: `jgmm.commands.selection.Row`."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    first = rows[0]
    for family, color in zip(dict.fromkeys(row.covariance_type for row in rows), COLORS, strict=False):
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
            axes.plot(k, values, style, color=color, ms=3.5, lw=1.2, label=label)
        judged = {"held-out": curves[0], "bic": curves[2], "aic": curves[3]}.get(criterion)
        if family == best[0] and judged is not None:
            judged[0].plot(best[1], judged[1][k.index(best[1])], "o", ms=11, mfc="none", color="k")
    panels[0].set(
        title="Log-likelihood: held out, and training (dotted)",
        ylabel=f"gain over {first.covariance_type}, K={first.k}: nats per example",
    )
    panels[1].set(title="Information criteria, lower is better")
    panels[2].set(title="Time", ylabel="seconds", yscale="log")
    for axes in panels:
        axes.set(xscale="log", xlabel="components")
        axes.set_xticks(sorted({row.k for row in rows}), labels=sorted({row.k for row in rows}), minor=False)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path)


@styled
def log_probs(path: Path, of: Mapping[str, np.ndarray], limits: tuple[float, float]) -> None:
    """The log-densities of several data sets as histograms, and the limits outside of which they are anomalies."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    # The tails of data that are nothing like the training data may be arbitrarily far away.
    low = min(np.quantile(values, 0.02) for values in of.values())
    high = max(np.quantile(values, 0.98) for values in of.values())
    margin = 0.05 * (high - low)
    bins = np.linspace(low - margin, high + margin, 120).tolist()
    for (name, values), color in zip(of.items(), COLORS, strict=False):
        axes.hist(values, bins, density=True, histtype="stepfilled", alpha=0.35, color=color, label=name)
        axes.hist(values, bins, density=True, histtype="step", color=color)
    for limit in limits:
        if np.isfinite(limit):
            axes.axvline(limit, color="k", lw=1, ls="--", label=f"limit {limit:.5g}")
    # Data unlike the others may pile up in one place.
    peaks = sorted(float(np.histogram(values, bins, density=True)[0].max()) for values in of.values())
    axes.set(xlabel="log-likelihood, nats per example", ylabel="density", ylim=(0, min(peaks[-1], 3 * peaks[0]) * 1.1))
    axes.legend(frameon=False)
    figure.savefig(path)
