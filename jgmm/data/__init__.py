"""Data sets: load(name, data_dir) -> Images; one source a file, entered in `jgmm.registry.DATASETS`."""

from pathlib import Path

from jgmm.data.images import Images, is_image, rescale, to_features
from jgmm.registry import DATASETS

__all__ = ["Images", "is_image", "load", "rescale", "to_features"]


def load(name: str, data_dir: str | Path | None = None) -> Images:
    """The training split of a data set by name. `data_dir` is for those that are read from disk.

    Raises:
        InputError: For an unknown name, and where the data are missing or damaged.
    """
    return DATASETS[name](None if data_dir is None else Path(data_dir))
