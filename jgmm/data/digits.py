"""scikit-learn's 1,797 handwritten digits of 8x8 pixels."""

from pathlib import Path

import numpy as np

from jgmm.data.images import Images


def load(data_dir: Path | None = None) -> Images:
    """The digits, their 17 gray levels 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return Images("digits", pixels, digits.target.astype(np.int32), "scikit-learn", has_mirror_images=False)
