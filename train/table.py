"""The table of a study."""

from collections.abc import Callable, Iterator
from statistics import fmean, stdev
from typing import Any, NamedTuple

from jgmm.commands.options import flag
from jgmm.errors import check
from train import judging
from train.plan import Row, Study


class Table(NamedTuple):
    """Means and standard deviations over the seeds: row, number of evaluations (or "real", "x0"), metric.

    Attributes:
        seeds: how many of each row were judged.
        laws: the AUC of x0 in training against x0 in sampling.
    """

    means: dict[str, dict[str, dict[str, float]]]
    spreads: dict[str, dict[str, dict[str, float]]]
    seeds: dict[str, int]
    laws: dict[str, float]

    @classmethod
    def of(cls, study: Study) -> "Table":
        """Of all that has been judged. Raises InputError for numbers of different budgets."""
        found = cls({}, {}, {}, {})
        for row in study.rows:
            judged = [one for seed in study.seeds if (one := numbers(study, row, seed)) is not None]
            if not judged:
                continue
            for one in judged:
                _check_alike(study, one.about, row)
            found.seeds[row.name] = len(judged)
            found.laws[row.name] = fmean(one.law for one in judged)
            rows = [{name: one.rows[name] for name in study.columns} for one in judged]
            found.means[row.name] = over(rows, fmean)
            found.spreads[row.name] = over(rows, lambda x: stdev(x) if len(x) > 1 else 0.0)
        return found

    def lines(self) -> Iterator[str]:
        """As Markdown, a table a metric."""
        first = next(iter(self.means.values()))
        for metric in next(iter(first.values())):
            columns = [column for column in first if column != "real"]
            yield f"**{metric}** (real against other real images: {first['real'][metric]:.4g})\n"
            yield "| source and coupling | seeds | law of x0 | " + " | ".join(columns) + " |"
            yield "|---|---|---|" + "---|" * len(columns)
            for name in self.means:
                cells = [self._cell(name, column, metric) for column in columns]
                yield f"| {name} | {self.seeds[name]} | {self.laws[name]:.2f} | " + " | ".join(cells) + " |"
            yield ""

    def _cell(self, name: str, column: str, metric: str) -> str:
        mean = f"{self.means[name][column][metric]:.4g}"
        return f"{mean} ± {self.spreads[name][column][metric]:.2g}" if self.seeds[name] > 1 else mean


def numbers(study: Study, row: Row, seed: int) -> judging.Judged | None:
    """What a row was judged by, once that is all that the study asks for."""
    folder = study.judged(row, seed)
    found = judging.read(folder) if (folder / judging.SUMMARY).exists() else None
    return found if found is not None and found.rows.keys() >= set(study.columns) else None


def _check_alike(study: Study, about: dict[str, Any], row: Row) -> None:
    there = about.get("options", {})
    for key, value in (study.evaluation | {"prune": row.prune}).items():
        check(
            key == "nfe" or there.get(key) == value,
            f"{row.name} was judged with another {flag(key)}, {there.get(key)}: delete its evaluation.",
        )


def over(rows: list[dict], of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """A number of every metric of every row."""
    names = rows[0]
    return {name: {m: of([one[name][m] for one in rows]) for m in names[name]} for name in names}
