"""The U-Net of diffusion models (Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, 2021, appendix).

With the settings of the CIFAR-10 recipe of torchcfm (`examples/images/cifar10`): 35,746,307 parameters.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

ZEROS = nnx.initializers.zeros
GROUPS, SMALLEST_GROUP = 32, 4


class UNet(nnx.Module):
    """(t, x) -> velocity, for images [B, H, W, C].

    Args:
        shape: (H, W, C) of an image.
        base: channels of the first level; `multipliers` those of every level in units of it.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: the heights H at which every block is followed by self-attention; the middle always has it.
        head_channels: channels a head.
        dropout: its rate.
        time_scale: what t is multiplied by before its cosines and sines are taken.
        classes: how many there are to condition on, or 0. A label of -1 is none of them.
        dtype: of the computation; parameters are float32.
        remat: compute the blocks again in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        head_channels: int,
        dropout: float,
        time_scale: float,
        classes: int,
        dtype: Any,
        remat: bool,
        rngs: nnx.Rngs,
    ):
        self.base, self.time_scale, self.classes, self.dtype, self.remat = base, time_scale, classes, dtype, remat
        size, channels, width = shape[0], base, 4 * base
        known = {"dtype": dtype, "rngs": rngs}
        self.time = nnx.List([nnx.Linear(base, width, **known), nnx.Linear(width, width, **known)])
        self.label = nnx.List([nnx.Embed(classes + 1, width, **known)] if classes else [])
        self.first = _conv(shape[2], base, **known)

        def block(inputs: int, outputs: int, with_attention: bool) -> Block:
            heads = max(outputs // head_channels, 1) if with_attention else 0
            return Block(inputs, outputs, width, heads, dropout, **known)

        down: list[nnx.Module] = []
        kept = [channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                down.append(block(channels, base * multiplier, size in attention))
                channels = base * multiplier
                kept.append(channels)
            if level + 1 < len(multipliers):
                down.append(_conv(channels, channels, strides=2, **known))
                kept.append(channels)
                size //= 2
        self.down = nnx.List(down)
        self.middle = nnx.List([block(channels, channels, True), block(channels, channels, False)])
        up: list[nnx.Module] = []
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                up.append(block(channels + kept.pop(), base * multiplier, size in attention))
                channels = base * multiplier
                if level and i == blocks:
                    up.append(_conv(channels, channels, **known))
                    size *= 2
        self.up = nnx.List(up)
        self.norm = _norm(channels, **known)
        self.last = _conv(channels, shape[2], kernel_init=ZEROS, **known)

    def __call__(
        self,
        t: Float[Array, " b"],
        x: Float[Array, "b h w c"],
        labels: Int[Array, " b"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h w c"]:
        """The velocity in float32. Dropout is on if a key is given. Without labels no class is meant."""
        h = self.time[1](nnx.silu(self.time[0](_frequencies(self.time_scale * t, self.base))))
        if self.classes:
            none = jnp.full(t.shape, -1) if labels is None else labels
            h = h + self.label[0](jnp.where(none < 0, self.classes, none))
        emb = nnx.silu(h)
        x = self.first(x)
        kept, n = [x], 0

        def run(block: Block, x: Array) -> Array:
            nonlocal n
            n += 1
            mine = None if key is None else jax.random.fold_in(key, n)
            return (_rematerialized if self.remat else Block.__call__)(block, x, emb, mine)

        for layer in self.down:
            x = run(layer, x) if isinstance(layer, Block) else layer(x)
            kept.append(x)
        for layer in self.middle:
            x = run(layer, x)
        for layer in self.up:
            if isinstance(layer, Block):
                x = run(layer, jnp.concatenate([x, kept.pop()], axis=3))
            else:
                x = layer(x.repeat(2, axis=1).repeat(2, axis=2))
        return self.last(nnx.silu(self.norm(x))).astype(jnp.float32)


class Block(nnx.Module):
    """A residual block, told of the time (and class), and self-attention after it if it has heads."""

    def __init__(
        self, inputs: int, outputs: int, width: int, heads: int, dropout: float, *, dtype: Any, rngs: nnx.Rngs
    ):
        known = {"dtype": dtype, "rngs": rngs}
        self.heads = heads
        self.norm1, self.conv1 = _norm(inputs, **known), _conv(inputs, outputs, **known)
        self.emb = nnx.Linear(width, outputs, **known)
        self.norm2, self.conv2 = _norm(outputs, **known), _conv(outputs, outputs, kernel_init=ZEROS, **known)
        self.dropout = nnx.Dropout(dropout)
        self.skip = nnx.List([nnx.Conv(inputs, outputs, (1, 1), **known)] if inputs != outputs else [])
        self.norm3: nnx.List = nnx.List([])
        self.attention: nnx.List = nnx.List([])
        if heads:
            self.norm3.append(_norm(outputs, **known))
            self.attention.append(nnx.Linear(outputs, 3 * outputs, **known))
            self.attention.append(nnx.Linear(outputs, outputs, kernel_init=ZEROS, **known))

    def __call__(self, x: Array, emb: Array, key: PRNGKeyArray | None) -> Array:
        h = self.conv1(nnx.silu(self.norm1(x))) + self.emb(emb)[:, None, None, :]
        h = self.dropout(nnx.silu(self.norm2(h)), deterministic=key is None, rngs=key)
        for layer in self.skip:
            x = layer(x)
        x = x + self.conv2(h)
        return x + self._attend(x) if self.heads else x

    def _attend(self, x: Array) -> Array:
        b, h, w, c = x.shape
        qkv = self.attention[0](self.norm3[0](x)).reshape(b, h * w, 3, self.heads, c // self.heads)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.attention[1](mixed.reshape(b, h, w, c))


def _rematerialized(block: Block, x: Array, emb: Array, key: PRNGKeyArray | None) -> Array:
    """The block, computed again when its gradient is taken. (`nnx.remat` cannot be called from within a solver's
    loop: it sets the parameters of a network that was made outside.)"""
    structure, parameters = nnx.split(block)
    return jax.checkpoint(lambda parameters, *inputs: nnx.merge(structure, parameters)(*inputs))(
        parameters, x, emb, key
    )


def n_parameters(model: nnx.Module) -> int:
    """How many numbers a network has learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _conv(inputs: int, outputs: int, strides: int = 1, **options: Any) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), strides=strides, padding=1, **options)


def _norm(channels: int, **options: Any) -> nnx.GroupNorm:
    # A group of one channel would lose what the time adds to it.
    most = max(1, min(GROUPS, channels // SMALLEST_GROUP))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nnx.GroupNorm(channels, groups, epsilon=1e-5, **options)


def _frequencies(t: Array, width: int) -> Float[Array, "b width"]:
    """cos(t f) and sin(t f) for frequencies f falling from 1 to 1e-4."""
    half = width // 2
    angles = t[:, None] * jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
