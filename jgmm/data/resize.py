"""Images of another size or number of channels, made alike, for comparisons between data sets."""

from dataclasses import replace

import numpy as np
from PIL import Image

from jgmm.data.images import Images
from jgmm.errors import check


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
