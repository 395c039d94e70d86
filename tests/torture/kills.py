"""Kills with -9 at random moments of fits and trainings, which are resumed and must end bit-equal."""

import random
import shutil
import time
from pathlib import Path

from examples import COMMANDS, finish, go_on, is_finished, numbers, start
from trial import Child, Outcome, Part, command, forked, same

# Kills of one run before it is let to its end.
IN_A_ROW = 3


def run(seed: int, folder: Path, size: float) -> list[Part]:
    """50 kills at size 1, half of fits and half of trainings."""
    draw = random.Random(seed)
    return [_kills(name, draw, folder / name, max(2, round(25 * size))) for name in COMMANDS]


def _kills(name: str, draw: random.Random, folder: Path, n: int) -> Part:
    part = Part(f"kills of {name}")
    folder.mkdir(parents=True)
    forked(command, name, start(name, folder / "warm"))  # compiles, so that the next one's time is that of a run
    begun = time.monotonic()
    outcome = forked(command, name, start(name, folder / "whole"))
    seconds = time.monotonic() - begun
    if outcome.code != 0:
        part.fail(f"without a kill: {outcome}")
        return part
    expected = forked(numbers, name, folder / "whole").value
    while part.tried < n:
        run, moments = folder / f"run-{part.tried}", []
        while len(moments) < min(IN_A_ROW, n - part.tried) and not is_finished(name, run):
            moment = draw.uniform(0, seconds)
            if _killed(name, run, moment):
                moments.append(f"{moment:.2f}")
        outcome = Outcome(0, "", "") if is_finished(name, run) else finish(name, run)
        well = outcome.code == 0 and same(forked(numbers, name, run).value, expected)
        for _ in moments:
            part.judge(
                well, f"killed after {' and '.join(moments)} s: {outcome}" + "" if outcome.code else ", other numbers"
            )
        shutil.rmtree(run, ignore_errors=True)
    return part


def _killed(name: str, folder: Path, moment: float) -> bool:
    """Go on, or begin where there is nothing to go on with, and kill after so many seconds unless it has ended."""
    for arguments in (go_on(name, folder), start(name, folder)):
        child = Child(command, name, arguments)
        code = child.poll(moment)
        if code is None:
            child.wait(0)
            return True
        if code == 0:
            return False
    return False
