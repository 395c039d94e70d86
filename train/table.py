"""The table of a study."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from statistics import fmean, stdev
from typing import NamedTuple

from jgmm.commands.options import flag, to_json
from jgmm.errors import InputError, check
from train import config as configs
from train import evaluate, judging
from train.config import Config
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
        """Of all that has been judged, without rows that `numbers` refuses."""
        judged: dict[str, list[judging.Judged]] = {}
        for row in study.rows:
            for seed in study.seeds:
                with suppress(InputError):
                    found = numbers(study, row, seed)
                    if found is not None:
                        shown = {column: found.rows[column] for column in study.columns}
                        judged.setdefault(row.name, []).append(found._replace(rows=shown))
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
        for metric in first["real"]:
            yield f"**{metric}** (real against other real images: {first['real'][metric]:.4g})\n"
            yield "| source and coupling | seeds | law of x0 | " + " | ".join(columns) + " |"
            yield "|---|---|---|" + "---|" * len(columns)
            for name in self.means:
                cells = [self._cell(name, column, metric) for column in columns]
                yield f"| {name} | {self.seeds[name]} | {self.laws[name]:.2f} | " + " | ".join(cells) + " |"
            yield ""

    def _cell(self, name: str, column: str, metric: str) -> str:
        if metric not in self.means[name].get(column, {}):
            return ""
        mean = f"{self.means[name][column][metric]:.4g}"
        return f"{mean} ± {self.spreads[name][column][metric]:.2g}" if self.seeds[name] > 1 else mean


def numbers(study: Study, row: Row, seed: int) -> judging.Judged | None:
    """What a row was judged by after its last step, once that is all that the study asks for. Raises InputError for
    another judge."""
    folder = study.judged(row, seed)
    if not (folder / judging.SUMMARY).exists():
        return None
    found, config = judging.read(folder), configs.parse(study.train_args(row, seed))
    asked = to_json(evaluate.parse(study.evaluate_args(row, seed)))
    there = to_json(evaluate.Options(folder)) | found.about["options"]
    other = [name for name in asked if name not in judging.FREE and there[name] != asked[name]]
    check(not other, f"{folder} was judged with another {', '.join(map(flag, other))}: delete it, to judge anew.")
    trained, step = Config.from_json(found.about["config"]), found.about["step"]
    done = difference(trained, config) is None and step == config.steps
    return found if done and found.rows.keys() >= set(study.columns) else None


def difference(there: Config, asked: Config) -> str | None:
    """The first flag on which a training differs from what a study asks for."""
    # Data that have no mirror images have switched flips off.
    settled = replace(asked, flips=asked.flips and there.flips)
    also = (flag(name) for name in ("data", "steps") if getattr(there, name) != getattr(asked, name))
    return there.difference(settled) or next(also, None)


def _over(rows: list[dict], of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """Of what all have."""
    common = {name: [m for m in rows[0][name] if all(m in one[name] for one in rows)] for name in rows[0]}
    return {name: {m: of([one[name][m] for one in rows]) for m in metrics} for name, metrics in common.items()}
