"""A file of JSON lines that goes on without gaps or repeats after an interruption."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from jgmm.checkpoint.files import faults, reading
from jgmm.errors import check


class Mark(NamedTuple):
    """How far a journal had come: its length in bytes, and the sha256 of them."""

    length: int = 0
    sha256: str = hashlib.sha256().hexdigest()


class Journal:
    """Lines appended to a file. A state that is saved keeps the `mark` of the moment; whoever goes on from the state
    cuts the file there, so that it has the lines of the steps that were made, each once.

    Args:
        path: The file; None writes nothing, as other processes than the first do.
        mark: Where to cut it; None keeps all there is. A file that has been deleted begins again.
    Raises:
        InputError: If the file is not what it was at the mark, and if it cannot be written.
    """

    def __init__(self, path: Path | None, mark: Mark | None):
        self.path = path
        self._hash, self._length = hashlib.sha256(), 0
        if path is None:
            return
        with reading(path):
            content = path.read_bytes() if path.exists() else b""
            length = len(content) if mark is None or not content else mark.length
            self._hash, self._length = hashlib.sha256(content[:length]), length
            check(
                mark is None or not content or self.mark == mark,
                f"{path} is damaged: its lines are not those that were written. Delete it to go on without them.",
            )
            with path.open("ab") as file:
                file.truncate(length)

    @property
    def mark(self) -> Mark:
        """Where the file ends now."""
        return Mark(self._length, self._hash.hexdigest())

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        if self.path is None:
            return
        text = json.dumps(line).encode() + b"\n"
        with faults(f"write {self.path}"), self.path.open("ab") as file:
            file.write(text)
        self._hash.update(text)
        self._length += len(text)
