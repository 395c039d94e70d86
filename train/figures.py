"""Pictures of what flows are worth."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jgmm.figures.style import BLUE, GRAY, ORANGE, styled

COLORS = (BLUE, ORANGE, "#2c8a4b", "#8a2c6b", "#b8a200", "#5b5b5b", "#6fa8dc", "#e06666")
LINES = ("-", "--", "-.", ":")
SHOWN = ("FID, inception", "Fréchet, efficientnet-lite0", "Fréchet, pca", "classifier AUC", "sliced W2")


@styled
def quality(path: Path, judged: dict[str, dict[str, dict[str, float]]], spread: dict | None = None) -> None:
    """Metrics over the number of evaluations, a line a run: the rows of `train.judging.Judged` by the name of the run.
    Dotted: real images against others. `spread` has the standard deviations of the same."""
    first = next(iter(judged.values()))
    names = [name for name in SHOWN if all(name in numbers for rows in judged.values() for numbers in rows.values())]
    ticks = sorted({int(row) for rows in judged.values() for row in rows if row.isdigit()})
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for i, (run, rows) in enumerate(judged.items()):
            nfe = [row for row in rows if row.isdigit()]
            values = [rows[row][name] for row in nfe]
            error = [spread[run][row][name] for row in nfe] if spread else []
            how: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "ls": LINES[i // len(COLORS) % len(LINES)]}
            shown = error if any(error) else None
            axes.errorbar([int(row) for row in nfe], values, shown, marker=".", lw=1, ms=4, label=run, **how)
        axes.axhline(first["real"][name], color=GRAY, ls=":", lw=1)
        axes.set(xscale="log", xlabel="evaluations", title=name)
        axes.set_xticks(ticks, map(str, ticks))
        axes.xaxis.minorticks_off()
        if name != "classifier AUC":
            axes.set_yscale("log")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
