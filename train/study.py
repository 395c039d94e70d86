"""`python -m train.study STUDY.toml`: which source and which coupling make the better flow, at equal budgets.

[study]
out = "runs/study"              # what is there already is not done again
seeds = [0, 1, 2]
nfe = [2, 5, 10, 20]            # and other options of python -m train.evaluate

[train]                         # options of python -m train, the same for all rows
preset = "tiny"
holdout = 0.2

[mixtures.product]              # options of python -m jgmm.fit, by a name that rows may have as their source
k = 50
blocks = 4

[[row]]
name = "product of blocks, semidiscrete"
source = "product"
coupling = "semidiscrete"
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import tyro

from jgmm.checkpoint.interrupted import kept_options
from jgmm.commands import cli
from jgmm.commands.options import flag
from jgmm.errors import InputError, check
from train import config as configs
from train.config import Config

PROG = "python -m train.study"
# What rows may differ in; all else is of the budget, which is equal.
FREE = {"source", "coupling", "rho", "space", "zca_epsilon", "norm_align", "cost_axes", "epsilon", "potential_rounds"}
OF_EVALUATION = {"nfe", "n", "solver", "features", "inception_weights"}
TABLE, PICTURE = "table.md", "quality.png"


@dataclass(frozen=True)
class Options:
    """Train and judge every row of a study, once for every seed, and write one table and one picture."""

    study: tyro.conf.Positional[Path]
    """The file that says what to compare, .toml."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files [default: $JGMM_DATA]."""


class Row(NamedTuple):
    """A source and a coupling: the options in which it differs, and whether draws are pruned."""

    name: str
    options: dict[str, Any]
    prune: bool


class Study(NamedTuple):
    """A study as its file says it.

    Attributes:
        out: the folder.
        seeds: of the trainings.
        evaluation: options of `python -m train.evaluate`.
        train: options of `python -m train` that all rows have.
        mixtures: options of `python -m jgmm.fit`, by name.
        rows: what is compared.
    """

    out: Path
    seeds: list[int]
    evaluation: dict[str, Any]
    train: dict[str, Any]
    mixtures: dict[str, dict[str, Any]]
    rows: list[Row]

    def folder(self, row: Row, seed: int) -> Path:
        """Of one training."""
        return self.out / slug(row.name) / f"seed-{seed}"

    def arguments(self, row: Row, seed: int, data_dir: Path | None) -> list[str]:
        """Of `python -m train`."""
        options = self.train | row.options
        if options.get("source") in self.mixtures:
            options["source"] = str(self.out / "mixtures" / options["source"])
        return words(options | {"seed": seed, "out": self.folder(row, seed)} | _place(data_dir))


def main(args: Sequence[str] | None = None) -> None:
    """Read, fit the mixtures, train and judge row by row, write."""
    options = cli.parse(Options, prog=PROG, args=args)
    study = read(options.study)
    for name, how in study.mixtures.items():
        folder = study.out / "mixtures" / name
        if not (folder / "config.json").exists():
            of_data = ("dataset", "data", "pixels", "size", "holdout")
            share = {key: study.train[key] for key in of_data if key in study.train} | {"out": folder}
            goes_on = kept_options(folder) is not None
            asked = words(share | how | _place(options.data_dir))
            _run(f"mixture {name}", "jgmm.fit", [*asked, *(["--resume"] if goes_on else [])], folder)
    for i, seed in enumerate(study.seeds):
        for j, row in enumerate(study.rows):
            place = f"row {j + 1} of {len(study.rows)}, seed {i + 1} of {len(study.seeds)}: {row.name}"
            _one(study, row, seed, options.data_dir, place)
            _write(study)


def read(path: Path) -> Study:
    """The study of a file. Raises InputError for one that is none, and rows of different budgets."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the study {path}: {error}.") from error
    strange = content.keys() - {"study", "train", "mixtures", "row"}
    check(not strange, f"{path}: expected [study], [train], [mixtures.NAME] and [[row]], got {', '.join(strange)}.")
    head, train, mixtures = (content.get(name, {}) for name in ("study", "train", "mixtures"))
    tables = all(isinstance(part, dict) for part in (head, train, mixtures, *mixtures.values()))
    rowed = isinstance(content.get("row", []), list) and all(isinstance(row, dict) for row in content.get("row", []))
    check(tables and rowed, f"{path}: expected tables [study], [train], [mixtures.NAME] and [[row]].")
    strange = head.keys() - OF_EVALUATION - {"out", "seeds"}
    check(not strange, f"{path}: [study] has out, seeds, {', '.join(sorted(OF_EVALUATION))}, got {', '.join(strange)}.")
    check("out" in head, f"{path}: [study] needs the folder that it writes to, out.")
    known = {f.name for f in fields(Config)} - FREE - {"seed", "out", "resume", "distributed"}
    check(train.keys() <= known, f"{path}: [train] cannot have {', '.join(sorted(train.keys() - known))}.")
    rows = [_row(path, row) for row in content.get("row", [])]
    check(len(rows) > 0, f"{path}: expected at least one [[row]].")
    slugs = [slug(row.name) for row in rows]
    same = len(set(slugs) - {"", "mixtures"}) == len(rows)
    check(same, f"{path}: rows need names that differ in their letters and digits, got {', '.join(slugs)}.")
    seeds = head.get("seeds", [0])
    listed = isinstance(seeds, list) and len(seeds) > 0 and all(isinstance(seed, int) for seed in seeds)
    check(listed, f"{path}: seeds must be a list of integers, got {seeds!r}.")
    evaluation = {key: value for key, value in head.items() if key in OF_EVALUATION}
    study = Study(Path(str(head["out"])), seeds, evaluation, train, mixtures, rows)
    for row in rows:
        configs.parse(study.arguments(row, 0, None)).check()
    return study


def _row(path: Path, row: dict[str, Any]) -> Row:
    check(isinstance(row.get("name"), str), f"{path}: every [[row]] needs a name.")
    given = {key: value for key, value in row.items() if key not in ("name", "prune")}
    strange = given.keys() - FREE
    check(
        not strange,
        f"{path}: row {row['name']!r} has {', '.join(sorted(strange))}: rows differ in their source, coupling and "
        "space alone, so that budgets are equal; put it into [train].",
    )
    return Row(row["name"], given, row.get("prune", False))


def slug(name: str) -> str:
    """The name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def words(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            found.append(flag(name) if value else flag("no_" + name))
        else:
            found += [flag(name), *map(str, value if isinstance(value, list | tuple) else [value])]
    return found


def _place(data_dir: Path | None) -> dict[str, Any]:
    return {} if data_dir is None else {"data_dir": data_dir}


def _one(study: Study, row: Row, seed: int, data_dir: Path | None, place: str) -> None:
    """Train, or go on, and judge, unless that was done."""
    from train import judging, runs

    folder, given = study.folder(row, seed), study.arguments(row, seed, data_dir)
    if (folder / "config.json").exists():
        asked, there = configs.parse(given), runs.kept_config(folder)
        # Data that have no mirror images have switched flips off.
        settled = replace(asked, flips=asked.flips and there.flips)
        differing = there.difference(settled) or ("--steps" if there.steps != asked.steps else None)
        check(
            differing is None,
            f"{folder} was trained with another {differing}: runs of different budgets are not compared. Choose "
            "another out, or delete it.",
        )
        given = ["--resume", "--out", str(folder), *words(_place(data_dir))]
    if (folder / "evaluation" / judging.SUMMARY).exists():
        return
    _run(f"{place}, training", "train", given, folder)
    how = study.evaluation | {"prune": row.prune, "seed": seed} | _place(data_dir)
    _run(f"{place}, judging", "train.evaluate", [str(folder), *words(how)], folder)


def _run(what: str, module: str, args: list[str], folder: Path) -> None:
    """A command, in a process of its own, whose output goes into a file beside the folder. Raises InputError with its
    last line if it fails."""
    print(what, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    with log.open("a") as file:
        code = subprocess.run([sys.executable, "-m", module, *args], stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise InputError(f"{what} failed: {last.removeprefix('error: ').rstrip('.')}; all of it is in {log}.")


def _write(study: Study) -> None:
    """The table and the picture of what has been judged."""
    from train.figures import quality

    table = Table.of(study)
    (study.out / TABLE).write_text("\n".join(table.lines()) + "\n")
    quality(study.out / PICTURE, table.means, table.spreads)


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
        from train import judging

        found = cls({}, {}, {}, {})
        for row in study.rows:
            folders = [study.folder(row, seed) / "evaluation" for seed in study.seeds]
            judged = [judging.read(folder) for folder in folders if (folder / judging.SUMMARY).exists()]
            if not judged:
                continue
            for one in judged:
                _check_alike(study, one.about, row)
            found.seeds[row.name] = len(judged)
            found.laws[row.name] = fmean(one.law for one in judged)
            found.means[row.name] = _over([one.rows for one in judged], fmean)
            found.spreads[row.name] = _over([one.rows for one in judged], lambda x: stdev(x) if len(x) > 1 else 0.0)
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


def _check_alike(study: Study, about: dict[str, Any], row: Row) -> None:
    there = about.get("options", {})
    for key, value in (study.evaluation | {"prune": row.prune}).items():
        same = there.get(key) == value
        check(same, f"{row.name} was judged with another {flag(key)}, {there.get(key)}: delete its evaluation.")


def _over(rows: list[dict], of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    names = rows[0]
    return {name: {m: of([one[name][m] for one in rows]) for m in names[name]} for name in names}


if __name__ == "__main__":
    cli.run(main)
