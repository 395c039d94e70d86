"""`python -m train.study STUDY.toml`: which source and which coupling make the better flow, at equal budgets.

[study]
out = "runs/study"              # what is there already is not done again
seeds = [0, 1, 2]
nfe = [2, 5, 10, 20]            # and other options of python -m train.evaluate
picture = ["N(0, I), ot"]       # the rows that are drawn [default: all]

[train]                         # options of python -m train, the same for all rows
preset = "tiny"
holdout = 0.2

[mixtures.product]              # options of python -m jgmm.fit, by a name that rows may have as their source
k = 50
blocks = 4

[reversed.carried]              # options of python -m train.reverse, by such a name, and the row whose flow it is of
row = "N(0, I), ot"
k = 100

[[row]]
name = "N(0, I), ot"
coupling = "ot"

[[row]]
name = "product of blocks, semidiscrete"
source = "product"
coupling = "semidiscrete"

[[row]]
name = "reversed, component-ot"
source = "carried"
coupling = "component-ot"
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jgmm import fit
from jgmm.checkpoint.interrupted import kept_options
from jgmm.checkpoint.models import read_config
from jgmm.commands import cli
from jgmm.commands.options import flag, to_json
from jgmm.errors import InputError, check
from train import config as configs
from train import reverse
from train.plan import Row, Study, read, words

PROG = "python -m train.study"
TABLE, PICTURE = "table.md", "quality.png"


@dataclass(frozen=True)
class Options:
    """Train and judge every row of a study, once for every seed, and write one table and one picture."""

    study: tyro.conf.Positional[Path]
    """The file that says what to compare, .toml."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files [default: $JGMM_DATA]."""

    @property
    def place(self) -> list[str]:
        """As the commands of a study have it."""
        return words({} if self.data_dir is None else {"data_dir": self.data_dir})


def main(args: Sequence[str] | None = None) -> None:
    """Read, train and judge row by row, write. A row that fails is said at once, and the others are not lost for it."""
    options = cli.parse(Options, prog=PROG, args=args)
    study, failed = read(options.study), 0
    for i, seed in enumerate(study.seeds):
        for j, row in enumerate(study.rows):
            place = f"row {j + 1} of {len(study.rows)}, seed {i + 1} of {len(study.seeds)}: {row.name}"
            try:
                if _one(study, row, seed, options.place, place):
                    _write(study)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
    _write(study)
    check(failed == 0, f"{failed} of {len(study.seeds) * len(study.rows)} trainings have failed: see above.")


def _one(study: Study, row: Row, seed: int, data: list[str], place: str) -> bool:
    """Train, or go on, and judge; False if that was done before."""
    from train import runs
    from train.checkpoints import FOLDER
    from train.table import difference, numbers

    folder, given = study.folder(row, seed), study.train_args(row, seed)
    asked, source = configs.parse(given), row.options.get("source")
    _check_source(study, row, seed)
    if (folder / "config.json").exists():
        other = difference(runs.kept_config(folder), asked)
        check(
            other is None,
            f"{folder} was trained with another {other}: runs of different budgets are not compared. Choose another "
            "out, or delete it.",
        )
        given = ["--resume", "--out", str(folder)]
    if numbers(study, row, seed) is not None:
        return False
    if source in study.mixtures:
        _fit(study, source, seed, data)
    elif source in study.reversed:
        _reverse(study, source, seed, data)
    _run(f"{place}, training", "train", [*given, *data], folder)
    done = (folder / FOLDER / str(asked.steps)).is_dir()
    check(done, f"{place} was stopped before its last step: run the study again, which goes on.")
    _run(f"{place}, judging", "train.evaluate", [*study.evaluate_args(row, seed), *data], folder)
    return True


def _check_source(study: Study, row: Row, seed: int) -> None:
    """Raise InputError where the source of a row is there, and was made with other options."""
    name = row.options.get("source")
    if name not in {*study.mixtures, *study.reversed} or not (study.made(name, seed) / "config.json").exists():
        return
    folder = study.made(name, seed)
    there = read_config(folder)
    if name in study.mixtures:
        asked = to_json(fit.parse(study.fit_args(name)))
        made = to_json(fit.Options.from_json(there["options"]))
    else:
        asked = to_json(reverse.parse(study.reverse_args(name, seed)))
        made = there["reversed"].get("options", asked)  # versions before this one did not keep them
    differing = [key for key in asked if key not in ("out", "data_dir") and made.get(key, asked[key]) != asked[key]]
    check(
        not differing,
        f"{folder} was made with another {', '.join(map(flag, differing))}: choose another out, or delete it and the "
        "rows that begin there.",
    )


def _fit(study: Study, name: str, seed: int, data: list[str]) -> None:
    """Fit a mixture, or go on, unless that was done."""
    folder = study.made(name, seed)
    if not (folder / "config.json").exists():
        goes_on = ["--resume"] if kept_options(folder) is not None else []
        _run(f"mixture {name}", "jgmm.fit", [*study.fit_args(name), *data, *goes_on], folder)


def _reverse(study: Study, name: str, seed: int, data: list[str]) -> None:
    """Make a source of the images that an earlier row's flow carries back, unless that was done."""
    from train.table import numbers

    row, folder = study.carried(name), study.made(name, seed)
    if not (folder / "config.json").exists():
        check(numbers(study, row, seed) is not None, f"{name} needs the flow of {row.name!r}, which has failed.")
        _run(f"{name} of {row.name}", "train.reverse", [*study.reverse_args(name, seed), *data], folder)


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
    from train.table import Table

    table = Table.of(study)
    if not table.means:
        return
    (study.out / TABLE).write_text("\n".join(table.lines()) + "\n")
    shown = {name: rows for name, rows in table.means.items() if name in study.picture}
    if shown:
        quality(study.out / PICTURE, shown, table.spreads)


if __name__ == "__main__":
    cli.run(main)
