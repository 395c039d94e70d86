"""A reader of pickles that runs nothing of them.

What a pickle may name is a list, everything on it is inert or checks its arguments, and no object of a file is given a
state but by the reader. The name of anything else is refused before it is imported.
"""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jgmm.errors import InputError

# The one in Python, whose opcodes can be replaced.
Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class Restricted(Unpickler):
    """Reads a stream in which nothing is named but what is admitted, by "module.name"."""

    dispatch = Unpickler.dispatch.copy()

    def __init__(self, file: Any, admitted: Mapping[str, Any]):
        super().__init__(file)
        self.file, self.admitted = file, admitted

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        known = f"{module}.{name}"
        if known not in self.admitted:
            raise pickle.UnpicklingError(f"it holds {known}, which no such file needs")
        return self.admitted[known]

    def built(self, made: Any, state: Any) -> Any:
        """An object with its state; what takes its place."""
        raise pickle.UnpicklingError(f"it changes {type(made).__name__}, which no such file needs")

    def load_build(self) -> None:
        """Replaces the opcode that sets attributes."""
        state = self.stack.pop()
        self.stack[-1] = self.built(self.stack[-1], state)

    dispatch[pickle.BUILD[0]] = load_build


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """In this context what goes wrong while a file is read is an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is refused, {error}. Nothing of it has been run.") from None
    except Exception as error:  # a damaged or hostile file may raise anything
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"cannot read {path}: {error.strerror.lower()}.") from error
        raise InputError(f"{path} is no {kind}, or is damaged ({str(error) or type(error).__name__}).") from error
