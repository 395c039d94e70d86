"""What the numbers of images mean: 8-bit values, or floating point in one of several conventions.

A mixture models pixels in [-1, 1]. Images in floating point are brought there if their numbers lie in the range of a
convention; others, standardized ones for example, stay as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jgmm.data.streams import Mapped, Stream
from jgmm.errors import InputError, check, unknown
from jgmm.registry import PIXELS


class Convention(NamedTuple):
    """What numbers from `least` to `most` mean: in words, and as they are modeled, in [-1, 1] or 8-bit."""

    words: str
    least: float
    most: float
    modeled: Callable[[np.ndarray], np.ndarray]


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Whole numbers lose nothing as 8-bit ones."""
    return _whole(pixels) if _is_whole(pixels) else _centered(pixels)


def _is_whole(pixels: np.ndarray) -> bool:
    return bool((np.rint(pixels) == pixels).all())


def _whole(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels).astype(np.uint8)


def _centered(pixels: np.ndarray) -> np.ndarray:
    return pixels / 127.5 - 1


unit = Convention("0 to 1", 0.0, 1.0, lambda pixels: 2 * pixels - 1)
signed = Convention("-1 to 1", -1.0, 1.0, lambda pixels: pixels)
eight_bit = Convention("0 to 255", 0.0, 255.0, _eight_bit)
raw = Convention("any numbers", -np.inf, np.inf, lambda pixels: pixels)


class Judged(NamedTuple):
    """Pixels as they are modeled: 8-bit, or floating point.

    Attributes:
        pixels: [N, H, W, C], or [N, D] as they came; an array, or a stream.
        convention: What they were: a name in `jgmm.registry.PIXELS`.
        remark: What a reader should know of how they were read, or "".
    """

    pixels: Any
    convention: str
    remark: str


def judge(pixels: Any, asked: str = "auto") -> Judged:
    """Read images in a convention, or in the one that their range tells; rows of a table stay as they are.

    Args:
        pixels: [N, H, W, C] or, told by axes of 1 or 3 in that place, [N, C, H, W]; or [N, D]; uint8 or floating point;
            an array, or a stream of them.
        asked: "0..255", "0..1", "signed" ([-1, 1]), "raw" (as they are), or "auto".
    Raises:
        InputError: For numbers outside the convention asked for, and for a range that tells none.

    >>> import numpy as np
    >>> from jgmm.data.pixels import judge
    >>> judge(np.array([[[[0.0], [1.0]]]])).pixels.ravel().tolist()
    [-1.0, 1.0]
    """
    if asked != "auto" and asked not in PIXELS:
        raise unknown(PIXELS.kind, asked, ["auto", *PIXELS])
    if pixels.ndim != 4:
        check(asked in ("auto", "raw"), f"rows of {pixels.shape} are no images: they are read as they are.")
        return Judged(pixels, "raw", "")
    said = []
    if asked != "raw" and _is_channels_first(pixels.shape):
        said.append(f"{list(pixels.shape)} is read as [N, C, H, W], channels first")
        pixels = _mapped(pixels, lambda piece: piece.transpose(0, 2, 3, 1))
    if pixels.dtype == np.uint8:
        check(asked in ("auto", "0..255", "raw"), f"8-bit pixels are from 0 to 255, not {asked}.")
        return Judged(pixels, "0..255", "; ".join(said))
    pieces = pixels.pieces() if isinstance(pixels, Stream) else [pixels]
    ranges = [(float(piece.min()), float(piece.max()), _is_whole(piece)) for piece in pieces]
    low, high = min(least for least, _, _ in ranges), max(most for _, most, _ in ranges)
    name = _told_by(low, high) if asked == "auto" else asked
    convention: Convention = PIXELS[name]
    inside = convention.least <= low and high <= convention.most
    check(inside, f"the pixels are from {low:g} to {high:g}, and not from {convention.words}, as {name!r} says.")
    if asked == "auto":
        read = "taken as they are" if name == "raw" else f"read as {convention.words}"
        said.append(f"floating point from {low:g} to {high:g}, {read} (pixels={name!r})")
    modeled = convention.modeled
    if convention is eight_bit and isinstance(pixels, Stream):
        modeled = _whole if all(whole for _, _, whole in ranges) else _centered
    return Judged(_mapped(pixels, modeled), name, "; ".join(said))


def _mapped(pixels: Any, f: Callable[[np.ndarray], np.ndarray]) -> Any:
    return Mapped(pixels, f) if isinstance(pixels, Stream) else f(pixels)


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    return shape[1] in (1, 3) and shape[3] not in (1, 3) and shape[2] > 1


def _told_by(low: float, high: float) -> str:
    """The first convention that holds the range, but "raw" only where there are numbers below -1."""
    fitting = (name for name in PIXELS if PIXELS[name].least <= low and high <= PIXELS[name].most)
    name = next(fitting)
    if name == "raw" and low >= 0:
        raise InputError(
            f"the pixels are from {low:g} to {high:g}, which is no known convention: scale them to [0, 1] or [-1, 1], "
            "or say pixels='raw' (--pixels raw)."
        )
    return name
