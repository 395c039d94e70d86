"""Patches of scikit-learn's two sample photographs: real image statistics without a download."""

from pathlib import Path

import numpy as np

from jgmm.data.images import Images

N_PATCHES = 20_000
SIZE = 32


def load(data_dir: Path | None = None) -> Images:
    """20,000 patches of 32x32x3, half from each photograph, at fixed random places; labels say which photograph."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    share = N_PATCHES // len(photos)
    patches = []
    for photo in photos:
        windows = np.lib.stride_tricks.sliding_window_view(photo, (SIZE, SIZE), axis=(0, 1))
        rows, columns = (rng.integers(0, n, share) for n in windows.shape[:2])
        patches.append(windows[rows, columns].transpose(0, 2, 3, 1))
    labels = np.repeat(np.arange(len(photos), dtype=np.int32), share)
    order = rng.permutation(N_PATCHES)
    return Images("photos", np.concatenate(patches)[order], labels[order], "scikit-learn")
