"""A disk that fails: the library of faulty.c, preloaded into this process, and called in its children."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

WRITES, READS = 1, 2
EVERY_CALL = -1
FULL, BROKEN = errno.ENOSPC, errno.EIO


def preload() -> None:
    """Compile the library and begin this program again with it, unless that is done. Ends without a C compiler."""
    if "faulty" in os.environ.get("LD_PRELOAD", ""):
        return
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        sys.exit("the disk faults need Linux and a C compiler (cc): run the other parts by name")
    library = Path(tempfile.mkdtemp(prefix="faulty-")) / "faulty.so"
    source = Path(__file__).with_name("faulty.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, "-m", "torture", *sys.argv[1:]])


def failing(folder: Path, kind: int, at: int, number: int, lasting: bool = False) -> Callable[[], None]:
    """What a child does first, so that its call number `at` of this kind below the folder fails; a lasting fault fails
    all that follow."""

    def arm() -> None:
        library = ctypes.CDLL(None)
        library.faulty_arm(str(folder).encode(), kind, ctypes.c_long(at), number, int(lasting))

    return arm


def calls() -> int:
    """How many calls of the armed kind this process has made."""
    library = ctypes.CDLL(None)
    library.faulty_calls.restype = ctypes.c_long
    return library.faulty_calls()
