"""CIFAR-10 through TensorFlow Datasets.

A prepared array_record copy is read without TensorFlow; preparing it needs TensorFlow (its image encoder).
"""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jgmm.errors import InputError, check

REMEDIES = """CIFAR-10 was not found{place}. Three remedies:
  1. download cifar-10-binary.tar.gz or cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html
     and point data_dir (--data-dir) or $JGMM_DATA at the folder that holds it (unpacked or not);
  2. pip install "jgmm[tfds]" on a machine with a network: it is downloaded and prepared by itself;
  3. take something that needs no download: the data sets photos and digits, or a file of your own (--data FILE.npy)."""


def load_cifar10(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Pixels uint8 [50000, 32, 32, 3], labels and the folder they came from, in the original order.

    Looks for a prepared copy in `data_dir`, then where TensorFlow Datasets keeps its own ($TFDS_DATA_DIR or
    ~/tensorflow_datasets); prepares one there if there is none. Raises InputError if that is impossible.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    remedies = REMEDIES.format(place=f" in {data_dir}" if data_dir else "")
    try:
        import tensorflow_datasets as tfds
        from absl import logging
    except ImportError as error:
        raise InputError(f"{remedies}\n(TensorFlow Datasets is not installed: {error})") from error
    logging.set_verbosity(logging.ERROR)
    for place in (data_dir, None):
        if place is not None and not (place / "cifar10").is_dir():
            continue
        builder = tfds.builder("cifar10", data_dir=place)
        if builder.is_prepared():
            return _read(_examples(tfds, builder, remedies)) + (str(builder.data_path),)
    builder = tfds.builder("cifar10", file_format="array_record")
    _need_tensorflow("preparing it", remedies)
    try:
        builder.download_and_prepare()
    except Exception as error:  # the download manager raises whatever its HTTP and checksum layers do
        raise InputError(f"{remedies}\n(preparing it failed: {type(error).__name__}: {error})") from error
    return _read(_examples(tfds, builder, remedies)) + (str(builder.data_path),)


def _examples(tfds: Any, builder: Any, remedies: str) -> Iterable[dict[str, Any]]:
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return builder.as_data_source(split="train")
    _need_tensorflow(f"reading the copy in {builder.data_path}, which is {builder.info.file_format.value},", remedies)
    return tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False))


def _need_tensorflow(purpose: str, remedies: str) -> None:
    check(importlib.util.find_spec("tensorflow"), f"{remedies}\n({purpose} needs TensorFlow, which is not installed)")


def _read(examples: Iterable[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    # Prepared copies are shuffled; the id train_00499 says where an image stood.
    rows = {int(e["id"].decode().rpartition("_")[2]): (e["image"], e["label"]) for e in examples}
    images, labels = zip(*(rows[i] for i in range(len(rows))), strict=True)
    return np.stack(images), np.array(labels, np.int32)
