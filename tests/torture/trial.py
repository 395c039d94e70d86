"""One trial: a command or a function in a process of its own, and what became of it.

The children are forked from a process that has imported everything and started no backend of JAX, so that a trial
costs what it computes and no import.
"""

import importlib
import os
import pickle
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HANGS = 200.0


class Outcome(NamedTuple):
    """What became of a child: its exit code (negative for a signal, None if it hung), and what it said and returned."""

    code: int | None
    out: str
    err: str
    value: Any = None

    @property
    def is_one_line(self) -> bool:
        """Whether it refused as every command does: exit code 2, and one line that begins with `error:`."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")

    def __str__(self) -> str:
        last = [line for line in self.err.splitlines() if line.strip()][-1:] or [""]
        count = len(self.err.splitlines())
        return f"exit code {self.code}, {count} line(s) of errors, the last: {last[0][:200]}"


@dataclass
class Part:
    """A row of the table."""

    name: str
    tried: int = 0
    survived: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def survive(self) -> None:
        """Count a trial that ended well."""
        self.tried, self.survived = self.tried + 1, self.survived + 1

    def refuse(self) -> None:
        """Count a trial that was refused in one line, which is well as well."""
        self.refused += 1
        self.survive()

    def fail(self, why: str) -> None:
        """Count a trial that ended badly."""
        self.tried += 1
        self.failures.append(why)
        print(f"  FAILED {self.name}: {why}", flush=True)

    def judge(self, well: bool, why: str) -> None:
        """Count a trial."""
        self.survive() if well else self.fail(why)

    def __str__(self) -> str:
        return f"{self.name:<34} {self.tried:>6} {self.survived:>9} {self.refused:>8} {len(self.failures):>7}"


HEADER = f"{'part':<34} {'tried':>6} {'survived':>9} {'refused':>8} {'failed':>7}"


def import_everything() -> None:
    """All modules of the two packages, so that children need not."""
    for name in ("jgmm", "train"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in ("train.__main__", "orbax.checkpoint", "sklearn.datasets", "sklearn.mixture", "scipy.optimize"):
        importlib.import_module(name)


class Child:
    """A forked process that runs `f(*args)`; `main` functions of commands are run by `command`."""

    def __init__(self, f: Callable[..., Any], *args: Any, before: Callable[[], None] = lambda: None):
        self.folder = Path(tempfile.mkdtemp(prefix="torture-child-"))
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(f, args, before)

    def _live(self, f: Callable[..., Any], args: tuple[Any, ...], before: Callable[[], None]) -> None:
        code = 1
        try:
            for descriptor, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            with os.fdopen(os.dup(1), "w", closefd=True) as out, os.fdopen(os.dup(2), "w") as err:
                sys.stdout, sys.stderr = out, err
                try:
                    value = f(*args)
                    (self.folder / "value").write_bytes(pickle.dumps(value))
                    code = 0
                except SystemExit as exit:
                    code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = HANGS) -> Outcome:
        """Until it ends, or is killed for hanging."""
        code = self.poll(seconds)
        if code is None:
            self.kill()
            os.waitpid(self.pid, 0)
        return self.ended(code)

    def poll(self, seconds: float) -> int | None:
        """Its exit code if it ends within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                return self.code
            if time.monotonic() > end:
                return None
            time.sleep(0.005)

    def ended(self, code: int | None) -> Outcome:
        """What became of it, once it has ended."""
        content = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        shutil.rmtree(self.folder)
        out, err = (content.get(name, b"").decode(errors="replace") for name in ("out", "err"))
        return Outcome(code, out, err, pickle.loads(content["value"]) if content.get("value") else None)


def forked(
    f: Callable[..., Any], *args: Any, before: Callable[[], None] = lambda: None, seconds: float = HANGS
) -> Outcome:
    """`f(*args)` in a child, to its end, or until it is killed after so many seconds."""
    return Child(f, *args, before=before).wait(seconds)


def command(name: str, args: list[Any]) -> None:
    """A command as its module runs it: `jgmm.fit`, `train`, ..."""
    from jgmm.commands import cli

    module = importlib.import_module("train.__main__" if name == "train" else name)
    sys.argv = [name]
    cli.run(lambda: module.main([str(a) for a in args]))


def leaves(folder: Path) -> list[np.ndarray]:
    """The arrays of a saved model, to be compared bit by bit."""
    import jax

    import jgmm

    return [np.asarray(leaf) for leaf in jax.tree.leaves(jgmm.load(folder))]


def same(a: list[np.ndarray] | None, b: list[np.ndarray] | None) -> bool:
    """Whether arrays are equal in every bit."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )
