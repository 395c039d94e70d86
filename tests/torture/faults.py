"""Faults of the disk: every write and every read fails in turn, and every file of a run is damaged in turn."""

import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import disk
import numpy as np
from examples import COMMANDS, finish, numbers, start
from trial import Child, Outcome, Part, command, forked, same

# Commands that read a run and write something: their arguments for a run and an output folder.
READERS: dict[str, Callable[[Path, Path], list[Any]]] = {
    "jgmm.generate": lambda run, out: [run, "--n", 4, "--npz", out / "x.npz", "--out", out / "x.png"],
    "jgmm.evaluate": lambda run, out: [run, "--out", out / "evaluation"],
    "jgmm.complete": lambda run, out: [run, "--n", 2, "--draws", 1, "--out", out / "x.png"],
    "train.sample": lambda run, out: [run, "--n", 4, "--nfe", 2, "--npz", out / "x.npz", "--out", out / "x.png"],
}


def writes(seed: int, folder: Path, size: float) -> list[Part]:
    """About 120 writes that fail, at size 1."""
    draw, runs = _begin(seed, folder)
    most = max(2, round(15 * size))
    parts = [_writes_of_runs(name, runs[name], draw, folder, most) for name in COMMANDS]
    return [*parts, _calls_of_readers(disk.WRITES, runs, draw, folder, most)]


def reads(seed: int, folder: Path, size: float) -> list[Part]:
    """About 80 reads that fail, at size 1."""
    draw, runs = _begin(seed, folder)
    most = max(2, round(15 * size))
    return [_calls_of_readers(disk.READS, runs, draw, folder, most), _resumed_reads(draw, folder, most, runs)]


def damage(seed: int, folder: Path, size: float) -> list[Part]:
    """Every file of two finished and two interrupted runs, at size 1."""
    draw, runs = _begin(seed, folder)
    return [_damage(runs, draw, folder, size), _damage_of_interrupted(draw, folder, size)]


def _begin(seed: int, folder: Path) -> tuple[random.Random, dict[str, Path]]:
    """Whole runs of every command."""
    folder.mkdir(parents=True)
    runs = {name: folder / f"whole-{name}" for name in COMMANDS}
    for name, place in runs.items():
        forked(command, name, start(name, place))
    return random.Random(seed), runs


def _counted(name: str, arguments: list[Any]) -> int:
    command(name, arguments)
    return disk.calls()


def _moments(draw: random.Random, n: int | None, most: int, part: Part) -> list[int]:
    """Which of n calls shall fail; None is a run that did not end even without a fault."""
    if n is None:
        part.fail("the run without a fault failed")
        return []
    return sorted(draw.sample(range(n), min(n, most)))


def _writes_of_runs(name: str, whole: Path, draw: random.Random, folder: Path, most: int) -> Part:
    part = Part(f"failing writes of {name}")
    expected = forked(numbers, name, whole).value
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    count = forked(_counted, name, start(name, run), before=disk.failing(run, disk.WRITES, disk.EVERY_CALL, 0)).value
    for at in _moments(draw, count, most, part):
        for number, lasting in ((disk.FULL, True), (disk.BROKEN, False)):
            shutil.rmtree(run, ignore_errors=True)
            arm = disk.failing(run, disk.WRITES, at, number, lasting)
            outcome = forked(command, name, start(name, run), before=arm)
            what = f"write {at} of {count}, error {number}: {outcome}"
            if outcome.code != 0 and not outcome.is_one_line:
                part.fail(what)
                continue
            after = outcome if outcome.code == 0 else finish(name, run)
            well = after.code == 0 and same(forked(numbers, name, run).value, expected)
            part.judge(well, f"{what}; then {after}" + (", other numbers" if after.code == 0 else ""))
    return part


def _content(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def _values(folder: Path) -> dict[str, Any]:
    """What the outputs of a command say, whatever the bytes are."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz" and zipfile.is_zipfile(path):
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tobytes() for name in arrays.files}
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def _run_of(name: str, runs: dict[str, Path]) -> Path:
    return runs["train" if name.startswith("train") else "jgmm.fit"]


def _calls_of_readers(kind: int, runs: dict[str, Path], draw: random.Random, folder: Path, most: int) -> Part:
    part = Part("failing reads of commands" if kind == disk.READS else "failing writes of commands")
    out = folder / "out"
    for name, arguments in READERS.items():
        run = _run_of(name, runs)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        watched = run if kind == disk.READS else out
        before = disk.failing(watched, kind, disk.EVERY_CALL, 0)
        count = forked(_counted, name, arguments(run, out), before=before).value
        old, whole = _content(out), _values(out)
        for at in _moments(draw, count, most, part):
            number = disk.FULL if kind == disk.WRITES and at % 2 else disk.BROKEN
            arm = disk.failing(watched, kind, at, number, lasting=number == disk.FULL)
            outcome = forked(command, name, arguments(run, out), before=arm)
            well = outcome.code == 0 and _values(out) == whole
            kept = outcome.is_one_line and _content(out) == old | {n: c for n, c in _content(out).items() if n in old}
            kept = kept and _values(out).keys() == whole.keys()
            part.judge(well or kept, f"{name}, call {at} of {count}, error {number}: {outcome}")
            shutil.rmtree(out)
            out.mkdir()
            for relative, content in old.items():
                (out / relative).parent.mkdir(exist_ok=True)
                (out / relative).write_bytes(content)
    return part


def _interrupted(name: str, folder: Path) -> None:
    """A run that was killed half-way."""
    child = Child(command, name, [*start(name, folder), *(["--max-iter", 100_000] if name == "jgmm.fit" else [])])
    while child.poll(0.01) is None and not _has_state(folder):
        pass
    if child.code is None:
        child.kill()
        child.wait(1)


def _has_state(folder: Path) -> bool:
    states = [*folder.glob("progress/state-*"), *folder.glob("checkpoints/*")]
    numbers = (p.name.rpartition("-")[2] for p in states)
    return any(number.isdigit() and int(number) >= 4 for number in numbers)


def _checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit())


def _copied(source: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    return to


def _resumed_reads(draw: random.Random, folder: Path, most: int, runs: dict[str, Path]) -> Part:
    """Reads that fail while a training is resumed: after it, the training is as it was and can be resumed."""
    part, name = Part("failing reads of a resumed training"), "train"
    expected = forked(numbers, name, runs[name]).value
    _interrupted(name, folder / "half")
    run = _copied(folder / "half", folder / "run")
    arguments = ["--resume", "--out", run]
    before = disk.failing(run, disk.READS, disk.EVERY_CALL, 0)
    count = forked(_counted, name, arguments, before=before).value
    for at in _moments(draw, count, most, part):
        _copied(folder / "half", run)
        outcome = forked(command, name, arguments, before=disk.failing(run, disk.READS, at, disk.BROKEN))
        after = outcome if outcome.code == 0 else finish(name, run)
        well = outcome.code == 0 or outcome.is_one_line
        well = well and after.code == 0 and same(forked(numbers, name, run).value, expected)
        part.judge(well, f"read {at} of {count}: {outcome}; then {after}")
    return part


def _damaged(run: Path, draw: random.Random, copy: Path, unread: tuple[str, ...] = ()) -> Iterator[str]:
    """A copy of the run with a bit flipped, or the end missing, in each of its files in turn that may be read."""
    unread = (*unread, "tensorboard", ".png")
    for path in sorted(p for p in run.rglob("*") if p.is_file() and not any(word in str(p) for word in unread)):
        content = path.read_bytes()
        bit = draw.randrange(max(1, 8 * len(content)))
        flipped = bytearray(content)
        if content:
            flipped[bit // 8] ^= 1 << (bit % 8)
        for word, damaged in ((f"bit {bit} flipped", bytes(flipped)), ("cut in half", content[: len(content) // 2])):
            if damaged == content:
                continue
            _copied(run, copy)
            relative = path.relative_to(run)
            (copy / relative).write_bytes(damaged)
            yield f"{run.name}/{relative} {word}"


def _damage(runs: dict[str, Path], draw: random.Random, folder: Path, size: float) -> Part:
    part = Part("damaged files, read by commands")
    copy, out = folder / "damaged", folder / "out"
    for name in ("jgmm.evaluate", "jgmm.generate", "train.sample"):
        run = _run_of(name, runs)
        _fresh(out)
        forked(command, name, READERS[name](run, out))
        whole = _values(out)
        older = tuple(f"/checkpoints/{step}/" for step in _checkpoints(run)[:-1])
        for what in _some(_damaged(run, draw, copy, older), draw, size):
            _fresh(out)
            outcome = forked(command, name, READERS[name](copy, out))
            well = outcome.is_one_line or (outcome.code == 0 and _values(out) == whole)
            part.judge(well, f"{name} with {what}: {outcome}{'' if outcome.code else ', another result'}")
    return part


def _damage_of_interrupted(draw: random.Random, folder: Path, size: float) -> Part:
    part = Part("damaged files, resumed")
    for name in COMMANDS:
        half, copy = folder / f"half-{name}", folder / "damaged"
        _interrupted(name, half)
        more = ["--max-iter", 100_000] if name == "jgmm.fit" else []
        reference = _copied(half, folder / "reference")
        first = _resumed(name, reference, more)
        for what in _some(_damaged(half, draw, copy), draw, size):
            outcome, found = _resumed(name, copy, more)
            well = outcome.is_one_line or (outcome.code in (0, None) and found == first[1])
            part.judge(well, f"{name} --resume with {what}: {outcome}{'' if outcome.code else ', another result'}")
    return part


def _resumed(name: str, run: Path, more: list[Any]) -> tuple[Outcome, Any]:
    """Resume to the end; of a fit that has none, a few iterations on."""
    if name == "train":
        outcome = forked(command, name, ["--resume", "--out", run, "--steps", 24])
        found = forked(numbers, name, run).value if outcome.code == 0 else None
        return outcome, found and [a.tobytes() for a in found]
    lines = len((run / "metrics.jsonl").read_bytes().splitlines())
    child = Child(command, name, ["--resume", "--out", run, *more])
    code = None
    while code is None and _n_lines(run) < lines + 20:
        code = child.poll(0.02)
    if code is not None:
        return child.ended(code), None
    child.kill()
    child.wait(1)
    return Outcome(None, "", ""), _objectives(run)


def _n_lines(run: Path) -> int:
    return len((run / "metrics.jsonl").read_bytes().splitlines())


def _objectives(run: Path) -> list[str]:
    lines = (run / "metrics.jsonl").read_text().splitlines()[:20]
    return [line.split('"seconds"')[0] for line in lines]


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _some(cases: Iterator[str], draw: random.Random, size: float) -> Iterator[str]:
    return (case for case in cases if size >= 1 or draw.random() < size)
