"""What all pictures share: their look, their colors, and images laid out as one picture."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from jgmm.checkpoint.files import whole

P = ParamSpec("P")

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}
BLUE, ORANGE, GRAY = "#1f5a93", "#d1691e", "#8a8a8a"
COLORS = (BLUE, ORANGE, GRAY, "#2c8a4b", "#8a2c6b", "#b8a200")
# As many components or images as a page shows legibly.
MOST = 100


def styled(draw: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """The function of a file and more, drawing in the style of the house, whatever the user's own settings are, and the
    whole picture or none."""

    @wraps(draw)
    def drawn(file: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        with whole(Path(file)) as temporary, matplotlib.rc_context(STYLE):
            draw(temporary, *args, **kwargs)

    return drawn


def tile(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """[N, H, W, C] images in [-1, 1] as one picture in [0, 1], row by row, on white."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    picture = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, c), np.float32)
    for i, image in enumerate(np.clip(images / 2 + 0.5, 0, 1)):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        picture[y : y + h, x : x + w] = image
    return picture


def show_image(axes: Axes, picture: np.ndarray, title: str = "") -> None:
    """A picture [H, W, C] in [0, 1], without axes."""
    axes.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.axis("off")
