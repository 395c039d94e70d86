"""CIFAR-10 (Krizhevsky, Learning multiple layers of features from tiny images, 2009): 50,000 training images.

Found in this order: the official files in `data_dir` or $JGMM_DATA; a copy prepared by TensorFlow Datasets;
TensorFlow Datasets, which downloads it. All give the same pixels in the same order.
"""

import io
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jgmm.data import tfds
from jgmm.data.images import Images
from jgmm.errors import InputError, check

PER_FILE = 10_000
RECORD = 1 + 3 * 32 * 32
BINARY = [f"data_batch_{i}.bin" for i in range(1, 6)]
PYTHON = [f"data_batch_{i}" for i in range(1, 6)]


def load(data_dir: Path | None = None) -> Images:
    """The training images, uint8 [50000, 32, 32, 3], in the order of the official files.

    Raises:
        InputError: If they are nowhere to be found, or a file is damaged (with its name and size).
    """
    if data_dir is not None:
        check(data_dir.is_dir(), f"the data directory {data_dir} does not exist or is not a directory.")
    named = data_dir or (Path(os.environ["JGMM_DATA"]) if os.environ.get("JGMM_DATA") else None)
    for place, read in _official(named) if named else ():
        pixels, labels = read(place)
        return Images("cifar10", pixels, labels, str(place))
    pixels, labels, location = tfds.load_cifar10(named)
    return Images("cifar10", pixels, labels, location)


def _official(directory: Path) -> Iterator[tuple[Path, Any]]:
    for name, read in (
        ("cifar-10-batches-bin", _read_binary_folder),
        ("cifar-10-batches-py", _read_python_folder),
        ("cifar-10-binary.tar.gz", _read_tar),
        ("cifar-10-python.tar.gz", _read_tar),
    ):
        # Naming the folder itself, rather than the one that holds it, is understood too.
        place = directory if directory.name == name else directory / name
        if place.exists():
            yield place, read


def _read_binary_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return _join(_parse_binary(folder / name, _bytes(folder / name)) for name in BINARY)


def _read_python_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return _join(_parse_python(folder / name, _bytes(folder / name)) for name in PYTHON)


def _read_tar(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    names, parse = (BINARY, _parse_binary) if "binary" in archive.name else (PYTHON, _parse_python)
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in names:
                    content[name] = (tar.extractfile(member) or io.BytesIO()).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        size = archive.stat().st_size
        raise InputError(f"{archive} ({size:,} bytes) is truncated or damaged: {error}. Download it again.") from error
    for name in names:
        check(name in content, f"{archive} holds no {name}: it is not the official CIFAR-10 archive.")
    return _join(parse(archive / name, content[name]) for name in names)


def _bytes(path: Path) -> bytes:
    check(path.is_file(), f"{path} is missing: CIFAR-10 has five training files in that folder.")
    return path.read_bytes()


def _parse_binary(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    expected = PER_FILE * RECORD
    check(
        len(content) == expected,
        f"{path}: expected {expected:,} bytes, got {len(content):,}. Download CIFAR-10 again.",
    )
    records = np.frombuffer(content, np.uint8).reshape(PER_FILE, RECORD)
    check(records[:, 0].max() < 10, f"{path}: labels above 9; this is not a CIFAR-10 file.")
    return records[:, 1:], records[:, 0].astype(np.int32)


def _parse_python(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _CifarUnpickler(io.BytesIO(content), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
    ) as error:
        raise InputError(
            f"{path} ({len(content):,} bytes) is truncated or damaged: {error}. Download CIFAR-10 again."
        ) from error
    keys = batch.keys() if isinstance(batch, dict) else ()
    batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in keys}
    check("data" in batch and "labels" in batch, f"{path}: expected a dict with data and labels.")
    data, labels = batch["data"], np.asarray(batch["labels"])
    check(
        isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (PER_FILE, RECORD - 1),
        f"{path}: expected {PER_FILE * (RECORD - 1):,} bytes of pixels, uint8 [{PER_FILE}, {RECORD - 1}], "
        f"got {getattr(data, 'nbytes', 0):,}, {getattr(data, 'dtype', type(data))} {getattr(data, 'shape', ())}.",
    )
    check(labels.shape == (PER_FILE,), f"{path}: expected {PER_FILE} labels, got shape {labels.shape}.")
    return data, labels.astype(np.int32)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


class _CifarUnpickler(pickle.Unpickler):
    """Admits only what the official files hold: numpy arrays, in the spellings of old and new numpy."""

    def __init__(self, file: io.BytesIO, encoding: str):
        super().__init__(file, encoding=encoding)
        core = np.ndarray(0).__reduce__()[0]
        self.admitted: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): core,
            ("numpy._core.multiarray", "_reconstruct"): core,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,  # how Python 3 spells bytes in the protocol of these files
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise InputError(f"refused to unpickle {module}.{name}: CIFAR-10 files hold nothing but numpy arrays.")
        return self.admitted[module, name]


def _join(parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = zip(*parts, strict=True)
    planes = np.concatenate(pixels).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.concatenate(labels)
