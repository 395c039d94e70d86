"""The files that a command writes: whole, signed with the command's name, and never over somebody else's.

A file signed by a command may be replaced by it; any other only with --force.
"""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jgmm.checkpoint.files import faults, whole
from jgmm.errors import InputError, check, check_count

PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npz",)
# The length of what begins every PNG: its signature and the chunk IHDR.
PNG_HEADER = 33
# More images than this are no picture.
MOST_IN_GRID = 10_000


def check_output(flag: str, path: Path | None, endings: tuple[str, ...], prog: str, force: bool) -> None:
    """Raise InputError unless the command may write a file under this name; None is none."""
    if path is None:
        return
    named = path.suffix.lower() in endings
    check(named, f"{flag} expects a name ending in {', '.join(endings)}, got {path}.")
    try:
        check(not path.is_dir(), f"{flag} {path}: there is a folder of that name.")
        check(path.absolute().parent.is_dir(), f"{flag} {path}: there is no folder {path.parent}. Make it first.")
        free = force or not path.exists() or signed_by(path) == prog
    except OSError as error:
        raise InputError(f"{flag} {path}: {str(error.strerror).lower()}.") from error
    check(free, f"{flag} {path} exists and was not written by {prog}: choose another name, or pass --force.")


def check_folder(folder: Path, names: Iterable[str], prog: str, force: bool) -> None:
    """Raise InputError unless the command may write files of these names into --out, and nothing else is lost."""
    with faults(f"write to {folder}"):
        check(not folder.exists() or folder.is_dir(), f"--out {folder} is not a folder.")
        paths = [folder / name for name in names]
        theirs = [path for path in paths if path.exists() and signed_by(path) != prog]
    check(
        force or not theirs,
        f"{theirs[0] if theirs else folder} was not written by {prog}: choose another --out, or pass --force.",
    )


def check_grid(flag: str, n: int, remedy: str) -> None:
    """Raise InputError for more images than a picture can show."""
    check_count(flag, n)
    check(n <= MOST_IN_GRID, f"{flag} {n}: a picture shows at most {MOST_IN_GRID:,} images; {remedy}.")


def check_memory(flag: str, n: int, each: int) -> None:
    """Raise InputError where n examples of so many bytes each are more than the memory that is available."""
    needed, there = n * each, _available_memory()
    gib = f"{flag} {n} takes {needed / 2**30:,.1f} GiB of memory, of which {there / 2**30:,.1f} are available"
    check(needed <= there, f"{gib}: draw fewer at a time, with another --seed each.")


def _available_memory() -> int:
    """Bytes, as the system estimates them where it does, else all there are."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    estimates = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return estimates[0] if estimates else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def picture(path: Path, prog: str) -> Iterator[Path]:
    """The name under which to draw a picture, which is signed and takes the place of `path` once it is whole."""
    with whole(path) as temporary:
        yield temporary
        content = temporary.read_bytes()
        temporary.write_bytes(_signed(content, prog.encode()))


def arrays(path: Path, content: dict[str, Any], prog: str) -> None:
    """Write a .npz file, signed. Raises InputError if it cannot be written, and for values that are not finite."""
    for name, values in content.items():
        values = np.asarray(values)
        finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
        check(finite, f"{name} has values that are not finite: {path} is not written.")
    with whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.comment = prog.encode()
        for name, values in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(values), allow_pickle=False)


def _signed(content: bytes, prog: bytes) -> bytes:
    """A PNG with a text chunk, or a JPEG with a comment."""
    if content.startswith(b"\x89PNG"):
        chunk = b"tEXt" + b"Author\0" + prog
        whole_chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return content[:PNG_HEADER] + whole_chunk + content[PNG_HEADER:]
    return content[:2] + b"\xff\xfe" + struct.pack(">H", len(prog) + 2) + prog + content[2:]


def signed_by(path: Path) -> str | None:
    """The command that wrote a file, or None."""
    from PIL import Image, UnidentifiedImageError

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return archive.comment.decode(errors="replace")
        if path.suffix == ".json":
            return json.loads(path.read_text()).get("made_by")
        with Image.open(path) as image:
            comment = image.info.get("Author", image.info.get("comment", ""))
    except (OSError, ValueError, AttributeError, UnidentifiedImageError, zipfile.BadZipFile):
        return None
    return comment.decode(errors="replace") if isinstance(comment, bytes) else comment
