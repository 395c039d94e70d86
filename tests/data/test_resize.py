"""Images averaged down."""

import numpy as np
import pytest

from jgmm.data import Images
from jgmm.data.resize import shrink
from jgmm.errors import InputError


def test_images_are_averaged_down(rng):
    pixels = rng.integers(0, 256, size=(5, 6, 6, 3), dtype=np.uint8)
    small = shrink(Images("some", pixels, np.arange(5), "here"), 2)
    for i, j in np.ndindex(2, 2):
        mean = pixels[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean(axis=(1, 2))
        np.testing.assert_array_equal(small.pixels[:, i, j], np.rint(mean.astype(np.float32)))
    assert small.pixels.dtype == np.uint8
    assert shrink(small, 2) is small
    assert shrink(small, None) is small
    for images, side in ((small, 3), (Images("rows", np.zeros((4, 6)), None, "here"), 2)):
        with pytest.raises(InputError, match="must divide the sides of square images"):
            shrink(images, side)
