"""`python -m jgmm.convert IN OUT`: mixtures between jgmm's folders and the files of other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jgmm.commands import cli

PROG = "python -m jgmm.convert"


@dataclass(frozen=True)
class Options:
    """Convert a mixture: .pkl and .joblib (scikit-learn, or SourceFM's images), .skops, .pt (zuko), .npz, .safetensors,
    and folders of jgmm."""

    source: tyro.conf.Positional[Path]
    """The file, or a run folder, to read. Nothing in it is run."""
    out: tyro.conf.Positional[Path]
    """The file to write, by its ending, or a new run folder."""
    stats: Path | None = None
    """Of images in a .pkl: the .pt file of their statistics [default: NAME_stats.pt beside NAME.pkl]."""
    shape: tuple[int, int, int] | None = None
    """Of images in a .pkl without statistics: height, width, channels."""
    features: int | None = None
    """Of a conditional mixture in a .pt file, which does not say it."""
    components: int | None = None
    """Likewise."""
    covariance_type: Literal["full", "diagonal", "spherical"] = "full"
    """Likewise."""
    tied: bool = False
    """Likewise."""
    epsilon: float = 1e-6
    """Of zuko's GMM in a .pt file."""
    dtype: Literal["float32", "float64"] = "float32"
    """The precision to read in, and to write."""
    force: bool = False
    """Overwrite files that exist."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, read, write."""
    options = cli.parse(Options, prog=PROG, args=args)
    import jax

    from jgmm.convert.files import read, write

    jax.config.update("jax_enable_x64", options.dtype == "float64")
    names = ("features", "components", "covariance_type", "tied", "epsilon")
    model = read(
        options.source,
        statistics=options.stats,
        shape=options.shape,
        **{name: getattr(options, name) for name in names},
    )
    print(model)
    for written in write(options.out, model, force=options.force):
        print(written)


if __name__ == "__main__":
    cli.run(main)
