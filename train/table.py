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
        judged: dict[str, list[judging.Judged]] = {}
        for row in study.rows:
            found = [one for seed in study.seeds if (one := numbers(study, row, seed)) is not None]
            for one in found:
                _check_alike(study, one.about, row)
            if found:
                judged[row.name] = [one._replace(rows={c: one.rows[c] for c in study.columns}) for one in found]
        return cls.over(judged)

    @classmethod
    def over(cls, judged: dict[str, list[judging.Judged]]) -> "Table":
        """Of rows by their names, each with what was judged of its seeds; without what not all seeds of a row have."""
        found = cls({}, {}, {}, {})
        for name, seeds in judged.items():
            columns = [c for c in seeds[0].rows if all(c in one.rows for one in seeds)]
            rows = [{c: one.rows[c] for c in columns} for one in seeds]
            found.seeds[name] = len(seeds)
            found.laws[name] = fmean(one.law for one in seeds)
            found.means[name] = _over(rows, fmean)
            found.spreads[name] = _over(rows, lambda x: stdev(x) if len(x) > 1 else 0.0)
        return found

    def lines(self) -> Iterator[str]:
        """As Markdown, a table a metric."""
        first = next(iter(self.means.values()))
        columns = ["x0", *sorted({c for rows in self.means.values() for c in rows if c.isdigit()}, key=int)]
        for metric in next(iter(first.values())):
            yield f"**{metric}** (real against other real images: {first['real'][metric]:.4g})\n"
            yield "| source and coupling | seeds | law of x0 | " + " | ".join(columns) + " |"
            yield "|---|---|---|" + "---|" * len(columns)
            for name in self.means:
                cells = [self._cell(name, column, metric) for column in columns]
                yield f"| {name} | {self.seeds[name]} | {self.laws[name]:.2f} | " + " | ".join(cells) + " |"
            yield ""

    def _cell(self, name: str, column: str, metric: str) -> str:
        if column not in self.means[name]:
            return ""
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


def _over(rows: list[dict], of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    names = rows[0]
    return {name: {m: of([one[name][m] for one in rows]) for m in names[name]} for name in names}
