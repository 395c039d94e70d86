"""What a study compares, as its file says it."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from jgmm import fit
from jgmm.commands.options import flag
from jgmm.errors import InputError, check
from train import config as configs
from train import evaluate, reverse
from train.config import Config
from train.registry import SOURCES

# What rows may differ in; all else is of the budget, which is equal.
OF_ROWS = {
    "source",
    "norm_align",
    "space",
    "zca_epsilon",
    "coupling",
    "rho",
    "cost_axes",
    "epsilon",
    "potential_rounds",
}
OF_EVALUATION = {"nfe", "n", "solver", "features", "inception_weights"}
# Mixtures are fitted to the images that rows are trained on: these options are the trainings'.
OF_DATA = ("dataset", "data", "data_dir", "pixels", "size", "holdout")
TABLES = ("study", "train", "mixtures", "reversed")
# Folders of sources, beside those of the rows.
MIXTURES, REVERSED = "mixtures", "reversed"


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
        reversed: options of `python -m train.reverse`, by name, and the name of the `row` whose flow is reversed.
        rows: what is compared.
        picture: the names of the rows that the picture shows.
    """

    out: Path
    seeds: list[int]
    evaluation: dict[str, Any]
    train: dict[str, Any]
    mixtures: dict[str, dict[str, Any]]
    reversed: dict[str, dict[str, Any]]
    rows: list[Row]
    picture: list[str]

    @property
    def columns(self) -> list[str]:
        """Of an evaluation: real images, draws as they are, and the numbers of evaluations."""
        return ["real", "x0", *map(str, evaluate.parse(self.evaluate_args(self.rows[0], 0)).nfe)]

    def folder(self, row: Row, seed: int) -> Path:
        """Of one training; rows that differ in pruning alone have one together."""
        first = next(other for other in self.rows if other.options == row.options)
        return self.out / slug(first.name) / f"seed-{seed}"

    def judged(self, row: Row, seed: int) -> Path:
        """Of one evaluation."""
        return self.folder(row, seed) / ("evaluation-pruned" if row.prune else "evaluation")

    def source(self, row: Row, seed: int) -> Path | str | None:
        """As `--source` has it, or None for the default."""
        name = row.options.get("source")
        return self.made(name, seed) if name in {*self.mixtures, *self.reversed} else name

    def made(self, name: str, seed: int) -> Path:
        """The folder of [mixtures.NAME], or of [reversed.NAME]."""
        return self.out / MIXTURES / name if name in self.mixtures else self.out / REVERSED / name / f"seed-{seed}"

    def train_args(self, row: Row, seed: int) -> list[str]:
        """The arguments of `python -m train`."""
        source = self.source(row, seed)
        options = self.train | row.options | ({} if source is None else {"source": source})
        return words(options | {"seed": seed, "out": self.folder(row, seed)})

    def evaluate_args(self, row: Row, seed: int) -> list[str]:
        """The arguments of `python -m train.evaluate`."""
        options = self.evaluation | {"prune": row.prune, "seed": seed, "out": self.judged(row, seed)}
        return [str(self.folder(row, seed)), *words(options)]

    def fit_args(self, name: str) -> list[str]:
        """The arguments of `python -m jgmm.fit`."""
        of_data = {key: self.train[key] for key in OF_DATA if key in self.train}
        return words(of_data | self.mixtures[name] | {"out": self.made(name, 0)})

    def carried(self, name: str) -> Row:
        """The row whose flow carries the images of [reversed.NAME] back."""
        return next(row for row in self.rows if row.name == self.reversed[name]["row"])

    def reverse_args(self, name: str, seed: int) -> list[str]:
        """The arguments of `python -m train.reverse`."""
        options: dict[str, Any] = {key: value for key, value in self.reversed[name].items() if key != "row"}
        run = self.folder(self.carried(name), seed)
        return [str(run), *words(options | {"out": self.made(name, seed)})]


def read(path: Path) -> Study:
    """The study of a file. Raises InputError for one that is none, and rows of different budgets."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the study {path}: {error}.") from error
    kinds = "[study], [train], [mixtures.NAME], [reversed.NAME] and [[row]]"
    strange = content.keys() - {*TABLES, "row"}
    check(not strange, f"{path}: expected {kinds}, got {', '.join(strange)}.")
    head, train, mixtures, reverse = parts = [content.get(name, {}) for name in TABLES]
    given = content.get("row", [])
    tables = all(isinstance(part, dict) for part in parts) and isinstance(given, list)
    each = tables and all(isinstance(one, dict) for one in [*given, *mixtures.values(), *reverse.values()])
    check(each, f"{path}: expected tables {kinds}.")
    known = ["out", "seeds", "picture", *sorted(OF_EVALUATION)]
    strange = head.keys() - set(known)
    check(not strange, f"{path}: [study] has {', '.join(known)}, got {', '.join(strange)}.")
    check("out" in head, f"{path}: [study] needs the folder that it writes to, out.")
    options = {f.name for f in fields(Config)} - OF_ROWS - {"seed", "out", "resume", "distributed"}
    check(train.keys() <= options, f"{path}: [train] cannot have {', '.join(sorted(train.keys() - options))}.")
    rows = [_row(path, row) for row in given]
    seeds = head.get("seeds", [0])
    listed = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    differ = listed and 0 < len(seeds) == len(set(seeds))
    check(differ, f"{path}: seeds must be a list of different integers, got {seeds!r}.")
    evaluation = {key: value for key, value in head.items() if key in OF_EVALUATION}
    shown = head.get("picture", [row.name for row in rows])
    study = Study(Path(str(head["out"])), seeds, evaluation, train, mixtures, reverse, rows, shown)
    _check(path, study)
    return study


def _row(path: Path, row: dict[str, Any]) -> Row:
    check(isinstance(row.get("name"), str), f"{path}: every [[row]] needs a name.")
    given = {key: value for key, value in row.items() if key not in ("name", "prune")}
    strange = given.keys() - OF_ROWS
    check(
        not strange,
        f"{path}: row {row['name']!r} has {', '.join(sorted(strange))}: rows differ in their source, coupling and "
        "space alone, so that budgets are equal; put it into [train].",
    )
    prune = row.get("prune", False)
    check(isinstance(prune, bool), f"{path}: row {row['name']!r} has prune = {prune!r}, expected true or false.")
    return Row(row["name"], given, prune)


def _check(path: Path, study: Study) -> None:
    """Raise InputError for what the commands would refuse, hours later, and rows that cannot be told apart."""
    check(len(study.rows) > 0, f"{path}: expected at least one [[row]].")
    slugs = [slug(row.name) for row in study.rows]
    same = len(set(slugs) - {"", MIXTURES, REVERSED}) == len(study.rows)
    check(same, f"{path}: rows need names that differ in their letters and digits, got {', '.join(slugs)}.")
    of_rows = {row.name for row in study.rows}
    known = isinstance(study.picture, list) and set(map(str, study.picture)) <= of_rows
    check(known, f"{path}: picture must be a list of names of rows, got {study.picture!r}.")
    evaluate.parse(study.evaluate_args(study.rows[0], 0)).check()
    _check_sources(path, study)
    for row in study.rows:
        configs.parse(study.train_args(row, 0)).check()
        name = str(row.options.get("source", "gaussian"))
        names = [*SOURCES, *study.mixtures, *study.reversed]
        check(
            name in names or Path(name).is_dir(),
            f"{path}: expected a source of {row.name!r} among {', '.join(names)} or a run folder, got {name!r}.",
        )


def _check_sources(path: Path, study: Study) -> None:
    both = sorted(study.mixtures.keys() & study.reversed.keys() | {*study.mixtures, *study.reversed} & set(SOURCES))
    check(not both, f"{path}: there are several sources of the name {', '.join(both)}.")
    for name, given in study.mixtures.items():
        # By the seed, images are held out.
        theirs = sorted(given.keys() & {*OF_DATA, "out", "resume", *(["seed"] if study.train.get("holdout") else [])})
        check(
            not theirs,
            f"{path}: [mixtures.{name}] cannot have {', '.join(theirs)}: mixtures are fitted to the images of [train].",
        )
        fit.parse(study.fit_args(name)).check()
    for name, given in study.reversed.items():
        asked = given.get("row")
        first = next((i for i, row in enumerate(study.rows) if row.options.get("source") == name), None)
        earlier = [row.name for row in study.rows[:first]]
        check(asked in earlier, f"{path}: [reversed.{name}] needs the name of an earlier row, got row = {asked!r}.")
        theirs = sorted(given.keys() & {"run", "data_dir", "out"})
        check(not theirs, f"{path}: [reversed.{name}] cannot have {', '.join(theirs)}.")
        reverse.parse(study.reverse_args(name, 0)).check()


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
