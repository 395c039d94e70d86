"""Training states on disk, with orbax: saved in the background, the newest and some older ones kept."""

import contextlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jgmm.checkpoint.arrays import ORBAX, fingerprint, quiet
from jgmm.checkpoint.files import faults, first_line, sealed, unsealed
from jgmm.errors import InputError, check, fault

FOLDER = "checkpoints"
# The items of a checkpoint: the state, and JSON with its fingerprint and what the log needs to go on.
STATE, NUMBERS = "default", "numbers"


class Saved(NamedTuple):
    """A training state that was read back, and what else was kept with it."""

    state: Any
    numbers: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run folder. A context manager: leaving it waits until all is written."""

    def __init__(self, run: Path, keep_last: int = 1, keep_every: int | None = None):
        self.folder = run.absolute() / FOLDER
        # What orbax's threads log, with tracebacks, `save` and `wait` raise.
        self.silence = quiet(*ORBAX)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep_last, keep_period=keep_every, create=True)
        handlers = {STATE: ocp.StandardCheckpointHandler(), NUMBERS: ocp.JsonCheckpointHandler()}
        with faults(f"write to {self.folder}"):
            self.manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

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

    def save(self, step: int, state: Any, numbers: dict[str, Any]) -> None:
        """Begin to write a state, and JSON beside it. Raises InputError if this, or the one before, cannot be written,
        and for a state that is not finite."""
        if step in self.steps:
            return
        content = sealed({**numbers, "fingerprint": fingerprint(state)})
        try:
            items = {STATE: ocp.args.StandardSave(_fields(state)), NUMBERS: ocp.args.JsonSave(content)}
            self.manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:  # orbax raises what its threads raised
            raise self._failed(error) from error

    def wait(self) -> None:
        """Until what is being written is on disk. Raises InputError if it cannot be."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def load(self, target: Any, step: int | None = None) -> Saved:
        """The newest state, or that of a step, of the structure, and on the devices, of `target`.

        Raises:
            InputError: If there is none; if it is damaged, and then the newest one that is whole is named; and if it is
                of another network: the first parameter that differs is named.
        """
        check(bool(self.steps), f"{self.folder} holds no checkpoint: the training was interrupted before its first.")
        step = self.steps[-1] if step is None else step
        check(step in self.steps, f"{self.folder} holds no checkpoint of step {step}, only {self.steps}.")
        try:
            return self._load(target, step)
        except Damaged as damage:
            older = (n for n in reversed(self.steps) if n != step)
            good = next((n for n in older if self._is_whole(target, n)), None)
            remedy = f" That of step {good} is whole: sample with --step {good}; to go on, delete the folder {step}."
            said = f"the checkpoint of step {step} in {self.folder} is damaged ({damage})."
            raise InputError(said + ("" if good is None else remedy)) from damage

    def _load(self, target: Any, step: int) -> Saved:
        place = self.folder / str(step)
        try:
            with faults(f"read {place}"):
                found = self.manager.item_metadata(step)[STATE]
                old = "optimiser" in getattr(found, "tree", found)
                asked = _fields(target, _name_before_0_2 if old else str)
                _check_same(found, asked)
                items: dict[str, Any] = {STATE: ocp.args.StandardRestore(asked)}
                if (place / NUMBERS).exists():
                    items[NUMBERS] = ocp.args.JsonRestore()
                both = self.manager.restore(step, args=ocp.args.Composite(**items))
        except InputError:
            raise
        except Exception as error:  # orbax raises many kinds for what it cannot read
            raise Damaged(first_line(error)) from error
        state, numbers = both[STATE], both.get(NUMBERS)
        name = _name_before_0_2 if old else str
        state = replace(target, **{f.name: state[name(f.name)] for f in fields(target) if name(f.name) in state})
        return Saved(state, _checked(numbers, state))

    def _is_whole(self, target: Any, step: int) -> bool:
        try:
            self._load(target, step)
        except (Damaged, InputError):
            return False
        return True

    def _failed(self, error: Exception) -> InputError:
        said = fault(error) or first_line(error)
        return InputError(f"cannot save to {self.folder}: {said}. The checkpoints before it are whole: {self.steps}.")


class Damaged(Exception):
    """A checkpoint is not what was saved."""


def _checked(numbers: dict[str, Any] | None, state: Any) -> dict[str, Any]:
    """The numbers kept with a state; none of a version before they were. Raises Damaged unless both are what was saved,
    and finite."""
    try:
        found = fingerprint(state)
    except InputError as error:
        raise Damaged(str(error)) from error
    content = {} if numbers is None else unsealed(numbers)
    if content is None:
        raise Damaged(f"its {NUMBERS} are not those that were saved")
    if found != content.get("fingerprint", found):
        raise Damaged("its arrays are not those that were saved")
    return content


def _name_before_0_2(name: str) -> str:
    """How versions before 0.2 called a field of the state."""
    return "optimiser" if name == "optimizer" else name


def _fields(state: Any, name: Callable[[str], str] = str) -> dict[str, Any]:
    """The fields of a state that hold anything, by name."""
    return {name(f.name): value for f in fields(state) if jax.tree.leaves(value := getattr(state, f.name))}


def _check_same(found: Any, target: Any) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
        return {_name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    theirs, ours = shapes(getattr(found, "tree", found)), shapes(target)
    # What differs in the parameters does so in their average and in the optimizer, too.
    for name, shape in sorted(ours.items(), key=lambda item: not item[0].startswith("parameters")):
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
