"""Two writers of one run folder: the second is told at once who holds it, and a dead one's lock is taken over."""

import shutil
import time
from pathlib import Path

from examples import COMMANDS, finish, numbers, start
from trial import Child, Part, command, forked, same

AT_ONCE = 15.0


def run(seed: int, folder: Path, size: float) -> list[Part]:
    """Ten pairs of each command at size 1."""
    folder.mkdir(parents=True)
    return [_pairs(name, folder / name, max(1, round(10 * size))) for name in COMMANDS]


def _pairs(name: str, folder: Path, n: int) -> Part:
    part = Part(f"two writers: {name}")
    folder.mkdir()
    forked(command, name, start(name, folder / "whole"))
    expected = forked(numbers, name, folder / "whole").value
    for i in range(n):
        run = folder / f"run-{i}"
        first = Child(command, name, start(name, run))
        while not run.exists() and first.poll(0.01) is None:
            pass
        arguments = start(name, run) if i % 2 else ["--resume", "--out", run]
        begun = time.monotonic()
        second = forked(command, name, arguments)
        told = second.is_one_line and str(first.pid) in second.err and time.monotonic() - begun < AT_ONCE
        part.judge(told, f"the second of two: {second}")
        kill = i % 3 == 0
        if kill:
            first.kill()
            first.wait(1)
            outcome = finish(name, run)
        else:
            outcome = first.wait()
        well = outcome.code == 0 and same(forked(numbers, name, run).value, expected)
        part.judge(well, f"the {'next after a killed' if kill else 'first'} writer: {outcome}")
        shutil.rmtree(run, ignore_errors=True)
    return part
