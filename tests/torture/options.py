"""Bad values for every option of every command, made from the tables of options: each must end in one line."""

import random
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from examples import COMMANDS, start
from trial import Part, command, forked

LONG = "x" * 300
# A command that is not done by then is taken for one that accepts the value.
PATIENCE = 40.0
# Values that no option of the kind can take, and values that some can: those may be accepted.
BAD: dict[Any, list[str]] = {
    int: ["1.5", "nan", "many", "", "-99999999999999999999"],
    float: ["nan", "lots", ""],
    Path: [""],
    str: ["nonsense", ""],
    bool: ["maybe"],
    "choice": ["nonsense", ""],
}
DOUBTFUL: dict[Any, list[str]] = {
    int: ["-1", "0", "99999999999999999999"],
    float: ["inf", "-1", "1e400"],
    Path: ["nowhere/at/all", LONG, "/dev/null", "."],
    str: [LONG, "../nowhere"],
}


def _options() -> dict[str, type]:
    from jgmm import complete, evaluate, generate
    from jgmm.commands.options import Options, SweepOptions
    from train import config, sample

    return {
        "jgmm.fit": Options,
        "jgmm.sweep": SweepOptions,
        "jgmm.generate": generate.Options,
        "jgmm.evaluate": evaluate.Options,
        "jgmm.complete": complete.Options,
        "train": config.Config,
        "train.sample": sample.Options,
    }


def _kind(annotation: Any) -> Any:
    """int, float, Path, str, bool or "choice", whatever the annotation wraps it in."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return "choice"
    if origin in (typing.Union, types.UnionType, tuple):
        return _kind(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


def cases() -> Iterator[tuple[str, str, str, bool]]:
    """Command, flag, value, and whether it must be refused."""
    for name, options in _options().items():
        assert is_dataclass(options)
        hints = typing.get_type_hints(options, include_extras=True)
        for field in fields(options):
            kind = _kind(hints[field.name])
            flag = "" if field.name == "run" else f"--{field.name.replace('_', '-')}"
            free_text = kind is str and field.name in ("against",)
            for value in BAD.get(kind, []):
                yield name, flag, value, not free_text
            for value in DOUBTFUL.get(kind, []):
                yield name, flag, value, False


def run(seed: int, folder: Path, size: float) -> list[Part]:
    """Every case at size 1, some at others."""
    part, draw = Part("bad options"), random.Random(seed)
    folder.mkdir(parents=True)
    runs = {name: folder / f"whole-{name}" for name in COMMANDS}
    for name, place in runs.items():
        forked(command, name, start(name, place))
    before = {name: _names(place) for name, place in runs.items()}
    for i, (name, flag, value, must) in enumerate(cases()):
        if size < 1 and draw.random() > size:
            continue
        out = folder / f"out-{i}"
        outcome = forked(_in_folder, out, name, _arguments(name, runs, out, flag, value), seconds=PATIENCE)
        said = f"{name} {flag} {value[:30]!r}: {outcome}"
        if outcome.is_one_line:
            part.refuse()
        else:
            goes_on = outcome.code is None and not outcome.err  # a length that is too much for us, and no error
            part.judge(not must and (goes_on or (outcome.code == 0 and _is_finite(out))), said)
    for name, place in runs.items():
        part.judge(_names(place) <= before[name] | {"evaluation"}, f"the run of {name} was changed: {_names(place)}")
    return [part]


def _names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def _in_folder(folder: Path, name: str, arguments: list[Any]) -> None:
    """A command, run in a new folder with a file in it: what it fills by mistake is found there."""
    import os

    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    os.chdir(folder)
    command(name, arguments)


def _arguments(name: str, runs: dict[str, Path], out: Path, flag: str, value: str) -> list[Any]:
    """A command that would be done soon, and one bad option at the end."""
    fit, flow = (runs[name].absolute() for name in COMMANDS)
    quick = {
        "jgmm.fit": ["--dataset", "digits", "--k", 2, "--max-iter", 2, "--n-pca", 16],
        "jgmm.sweep": ["--dataset", "digits", "--k", 2, "--covariance-type", "diag", "--max-iter", 2, "--n-pca", 16],
        "jgmm.generate": [fit, "--n", 4],
        "jgmm.evaluate": [fit, "--out", "evaluation"],
        "jgmm.complete": [fit, "--n", 2, "--draws", 1],
        "train": [*COMMANDS["train"][:-1], 2],
        "train.sample": [flow, "--n", 4, "--nfe", 2],
    }[name]
    if not flag:
        return [value, *quick[1:]]
    if name in ("jgmm.fit", "jgmm.sweep", "train") and flag != "--out":
        quick = [*quick, "--out", "run"]
    return [*quick, flag, value]


def _is_finite(folder: Path) -> bool:
    """Whether all arrays that were written are finite."""
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            if not all(np.isfinite(arrays[name]).all() for name in arrays.files if arrays[name].dtype.kind == "f"):
                return False
    return True
