"""Images of another size or number of channels: smaller ones to fit, and those of other data sets made alike."""

from dataclasses import replace

import numpy as np
from PIL import Image

from jgmm.data.images import Images
from jgmm.errors import check

# Images averaged at a time.
ROWS = 4096


def shrink(images: Images, side: int | None) -> Images:
    """Square images [N, H, H, C] averaged over squares down to [N, side, side, C], 8-bit ones rounded to 8 bits again;
    None leaves them as they are.

    Raises:
        InputError: For examples that are no square images, and a side that does not divide theirs.

    >>> import numpy as np
    >>> from jgmm.data import Images
    >>> from jgmm.data.resize import shrink
    >>> shrink(Images("four", np.array([[[[1.0], [2.0]], [[3.0], [6.0]]]]), None, "here"), 1).pixels.ravel()
    array([3.])
    """
    if side is None or images.shape == (side, side, *images.shape[2:]):
        return images
    fits = len(images.shape) == 3 and images.shape[0] == images.shape[1] and side >= 1 and images.shape[0] % side == 0
    check(fits, f"--size {side} must divide the sides of square images, got {images.shape}.")
    h, _, c = images.shape
    block = h // side
    small = np.empty((len(images), side, side, c), np.float32)
    for start in range(0, len(images), ROWS):
        part = np.asarray(images.pixels[start : start + ROWS], np.float32)
        small[start : start + ROWS] = part.reshape(-1, side, block, side, block, c).mean(axis=(2, 4))
    pixels = np.rint(small).astype(np.uint8) if images.is_8_bit else small.astype(images.pixels.dtype)
    return replace(images, pixels=pixels)


def resize(images: Images, shape: tuple[int, ...]) -> Images:
    """8-bit images [N, H, W, C] brought to `shape` (H, W, C): bilinear in size, gray repeated over three channels,
    colors reduced to luma (ITU-R BT.601) for one.

    Raises:
        InputError: For anything but 8-bit images with one or three channels.
    """
    if images.shape == shape:
        return images
    known = len(shape) == 3 and shape[2] in (1, 3)
    check(known, f"only images with one or three channels can be made from others, not examples of shape {shape}.")
    fits = images.is_8_bit and len(images.shape) == 3 and images.shape[2] in (1, 3)
    check(
        fits,
        f"{images.name}: examples of {images.shape} {images.pixels.dtype} cannot be brought to {shape}; expected "
        "8-bit images with one or three channels.",
    )
    mode, size = "RGB" if shape[2] == 3 else "L", (shape[1], shape[0])

    def one(pixels: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR).convert(mode)).reshape(shape)

    return replace(images, pixels=np.stack([one(pixels) for pixels in images.pixels]))
