"""The U-Net of `train/unet.py` in PyTorch, for its speed alone: python benchmarks/unet_torch.py, with a torch for GPUs.

The same layers in the same order, Adam, gradient clipping and an average of the parameters, with torch.compile and
channels-last memory; float32, TF32, and bfloat16 by autocast. Prints its number of parameters (35,746,307).
"""

import time

import torch
from torch import nn
from torch.nn import functional as F

BASE, MULTIPLIERS, BLOCKS, ATTENTION, HEAD, DROPOUT = 128, (1, 2, 2, 2), 2, (16,), 64, 0.1


class Block(nn.Module):
    """A residual block, and self-attention where asked for."""

    def __init__(self, inputs: int, outputs: int, attend: bool):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.emb = nn.Linear(4 * BASE, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(32, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attend = attend
        if attend:
            self.norm3 = nn.GroupNorm(32, outputs)
            self.qkv, self.out = nn.Linear(outputs, 3 * outputs), nn.Linear(outputs, outputs)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.emb(emb)[:, :, None, None]
        x = self.skip(x) + self.conv2(F.dropout(F.silu(self.norm2(h)), DROPOUT))
        if not self.attend:
            return x
        b, c, h_, w = x.shape
        tokens = self.norm3(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(b, -1, 3, c // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, c)
        return x + self.out(mixed).transpose(1, 2).reshape(b, c, h_, w)


class UNet(nn.Module):
    """(t, x) -> velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(BASE, 4 * BASE), nn.SiLU(), nn.Linear(4 * BASE, 4 * BASE))
        self.first, size, channels, kept, down = nn.Conv2d(3, BASE, 3, padding=1), 32, BASE, [BASE], []
        for level, multiplier in enumerate(MULTIPLIERS):
            for _ in range(BLOCKS):
                down.append(Block(channels, BASE * multiplier, size in ATTENTION))
                channels = BASE * multiplier
                kept.append(channels)
            if level + 1 < len(MULTIPLIERS):
                down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                kept.append(channels)
                size //= 2
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([Block(channels, channels, True), Block(channels, channels, False)])
        up: list[nn.Module] = []
        for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
            for i in range(BLOCKS + 1):
                up.append(Block(channels + kept.pop(), BASE * multiplier, size in ATTENTION))
                channels = BASE * multiplier
                if level and i == BLOCKS:
                    up.append(nn.Conv2d(channels, channels, 3, padding=1))
                    size *= 2
        self.up = nn.ModuleList(up)
        self.norm, self.last = nn.GroupNorm(32, channels), nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        f = 1e4 ** (-torch.arange(BASE // 2, device=t.device) / (BASE // 2))
        angles = t[:, None] * f[None]
        emb = F.silu(self.time(torch.cat([angles.cos(), angles.sin()], dim=1)))
        x = self.first(x)
        kept = [x]
        for layer in self.down:
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, emb)
        for layer in self.up:
            if isinstance(layer, Block):
                x = layer(torch.cat([x, kept.pop()], dim=1), emb)
            else:
                x = layer(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.last(F.silu(self.norm(x)))


def images_per_second(batch_size: int, dtype: torch.dtype, steps: int = 20) -> float:
    """Of whole training steps on the GPU, after five that compile and warm up."""
    model = UNet().cuda().to(memory_format=torch.channels_last)
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, fused=True)
    compiled = torch.compile(model)
    x1 = torch.randn(batch_size, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)

    def step() -> None:
        x0, t = torch.randn_like(x1), torch.rand(batch_size, device="cuda")
        wide = t[:, None, None, None]
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            v = compiled(t, (1 - wide) * x0 + wide * x1)
        ((v.float() - (x1 - x0)) ** 2).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1e-4)

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return batch_size * steps / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(f"{sum(p.numel() for p in UNet().parameters()):,} parameters")
    if torch.cuda.is_available():
        print(f"{torch.cuda.get_device_name()}\n\n| precision | batch | images a second |\n|---|---|---|")
        for name, dtype, tf32 in (
            ("float32", torch.float32, False),
            ("TF32", torch.float32, True),
            ("bfloat16", torch.bfloat16, False),
        ):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            for size in (128, 512):
                print(f"| {name} | {size} | {images_per_second(size, dtype):.0f} |", flush=True)
