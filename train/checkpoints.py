"""Training states on disk, with orbax: saved in the background, the newest and some older ones kept."""

import contextlib
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jgmm.checkpoint.arrays import quiet
from jgmm.errors import InputError, check

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of a run folder. A context manager: leaving it waits until all is written."""

    def __init__(self, run: Path, keep_last: int = 1, keep_every: int | None = None):
        self.folder = run.absolute() / FOLDER
        # What orbax's threads log, with tracebacks, `save` and `wait` raise.
        self.silence = quiet("absl", "asyncio")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep_last, keep_period=keep_every, create=True)
        self.manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self) -> "Checkpoints":
        self.silence.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
            with contextlib.nullcontext() if error is None else contextlib.suppress(Exception):
                self.manager.close()  # which raises what its threads raised, once more
        finally:
            self.silence.__exit__(kind, error, trace)

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints there are, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Begin to write a state. Raises InputError if this, or the one before, cannot be written."""
        if step in self.steps:
            return
        try:
            self.manager.save(step, args=ocp.args.StandardSave(state), force=True)
        except Exception as error:  # orbax raises what its threads raised
            raise self._failed(error) from error

    def wait(self) -> None:
        """Until what is being written is on disk. Raises InputError if it cannot be."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def load(self, target: Any, step: int | None = None) -> Any:
        """The newest state, or that of a step, of the structure, and on the devices, of `target`.

        Raises:
            InputError: If there is none, and if it is of another network: the first parameter that differs is named.
        """
        check(bool(self.steps), f"{self.folder} holds no checkpoint: the training was interrupted before its first.")
        step = self.steps[-1] if step is None else step
        check(step in self.steps, f"{self.folder} holds no checkpoint of step {step}, only {self.steps}.")
        try:
            found = self.manager.item_metadata(step)
            old = "optimiser" in getattr(found, "tree", found)
            asked = _before_0_2(target) if old else target
            _check_same(found, asked)
            state = self.manager.restore(step, args=ocp.args.StandardRestore(asked))
            return type(target)(**{f.name: state[_name_before_0_2(f.name)] for f in fields(target)}) if old else state
        except InputError:
            raise
        except Exception as error:
            others = [n for n in self.steps if n != step]
            remedy = f" Those of {others} may be whole: sample with --step; to go on, delete the folder {step}."
            said = f"the checkpoint of step {step} in {self.folder} is damaged ({_first_line(error)})."
            raise InputError(said + (remedy if others else "")) from error

    def _failed(self, error: Exception) -> InputError:
        said = _first_line(error)
        return InputError(f"cannot save to {self.folder}: {said}. The checkpoints before it are whole: {self.steps}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _name_before_0_2(name: str) -> str:
    """How versions before 0.2 called a field of the state."""
    return "optimiser" if name == "optimizer" else name


def _before_0_2(state: Any) -> dict[str, Any]:
    return {_name_before_0_2(f.name): getattr(state, f.name) for f in fields(state)}


def _check_same(found: Any, target: Any) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
        return {_name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    theirs, ours = shapes(getattr(found, "tree", found)), shapes(target)
    for name, shape in ours.items():
        check(
            theirs.get(name) == shape,
            f"the checkpoint is of another network: {name} is {theirs.get(name, 'not in it')}, expected {shape}.",
        )


def _name(path: tuple[Any, ...]) -> str:
    """Of a leaf, in words that do not tell dictionaries from attributes."""
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path]
    return "/".join(p for p in parts if p != "value")


def abstract(state: Any, shardings: Any) -> Any:
    """The shapes and dtypes of a state, placed."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=s), state, shardings)
