"""Encoders whose codes are images: the spaces that a flow can run in."""

from jaxtyping import Array, Float

from jgmm.encoder.base import Encoder


def encode_images(encoder: Encoder, images: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The codes of images [N, H, W, C], laid out as images."""
    return encoder.encode(images.reshape(images.shape[0], -1)).reshape(images.shape)


def decode_images(encoder: Encoder, codes: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The images with these codes."""
    flat = codes.reshape(codes.shape[0], -1)
    return encoder.decode(flat, flat[:, :0]).reshape(codes.shape)
