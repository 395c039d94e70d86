"""Pictures: what is where in them, and that drawing leaves the user's settings alone."""

import matplotlib
import numpy as np
from helpers import random_mixture
from matplotlib.image import imread

from jgmm.figures import fits, images, mixtures
from jgmm.figures.style import STYLE, tile


def test_a_grid_holds_every_image_in_its_place(rng):
    pixels = rng.uniform(-1, 1, size=(5, 3, 4, 1)).astype(np.float32)
    picture = tile(pixels, 2)
    assert picture.shape == (3 * 3 + 2, 2 * 4 + 1, 1)
    for i in range(5):
        y, x = (i // 2) * 4, (i % 2) * 5
        np.testing.assert_allclose(picture[y : y + 3, x : x + 4], pixels[i] / 2 + 0.5, rtol=1e-6)
    assert (picture[8:, 5:] == 1).all()


def test_a_sample_grid_on_disk_is_the_grid(rng, tmp_path):
    pixels = rng.uniform(-1, 1, size=(4, 5, 5, 3)).astype(np.float32)
    images.sample_grid(tmp_path / "grid.png", pixels)
    found = imread(tmp_path / "grid.png")[2::4, 2::4, :3]
    np.testing.assert_allclose(found, tile(pixels, 2), atol=1 / 255)


def test_drawing_leaves_the_settings_of_matplotlib_alone(rng, tmp_path):
    before = dict(matplotlib.rcParams)
    assert any(before[name] != value for name, value in STYLE.items())
    fits.likelihood(tmp_path / "likelihood.png", [1.0, 2.0, 2.5], True)
    mixtures.density(tmp_path / "density.png", random_mixture(rng, "full", 3, 2, "float32"), rng.normal(size=(50, 2)))
    assert dict(matplotlib.rcParams) == before
    assert all(imread(tmp_path / f"{name}.png").std() > 0.05 for name in ("likelihood", "density"))


def test_vectors_are_drawn_as_points(rng, tmp_path):
    images.samples_beside_data(tmp_path / "samples.png", rng.normal(size=(20, 3)), rng.normal(size=(30, 3)))
    images.component_means(tmp_path / "means.png", rng.normal(size=(4, 3)))
    assert all(imread(tmp_path / f"{name}.png").std() > 0.02 for name in ("samples", "means"))
