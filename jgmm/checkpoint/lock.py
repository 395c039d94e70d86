"""One writer of a run folder at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jgmm.checkpoint.files import faults
from jgmm.errors import InputError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made if need be, while it is written.

    The system gives the lock back when the process that holds it ends, however it ends. The file .lock says which
    process that is; it goes with the lock, and a folder that is empty then goes with it.

    Raises:
        InputError: If another process holds the folder, and if it cannot be written.
    """
    path = folder / LOCK
    with faults(f"write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _taken(folder, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _taken(folder: Path, path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise InputError(
                f"{folder} is being written by {holder or 'another process'}: wait for it, or choose another --out."
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        if _is_still(path, descriptor):
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed it between our opening and our locking it


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
