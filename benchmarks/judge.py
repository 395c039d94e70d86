"""How easily a small convolutional network tells draws from images: python benchmarks/judge.py --data-dir DIR

The classifier of python -m train.evaluate sees half of the 5,000 images held out of the fits and as many draws, and is
asked about the other half of both. Training images stand for what is possible. Prints a line a source.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
from fits import fit

import jgmm
from jgmm.commands.inputs import prepare
from jgmm.commands.options import Options
from jgmm.data import rescale
from train.metrics.classifier import auc

SOURCES = {
    "one Gaussian": ["--k", "1"],
    "mixture": ["--k", "100"],
    "product": ["--k", "50", "--blocks", "4"],
    "product with classes": ["--k", "50", "--blocks", "4", "--classes", "32", "32"],
}


def main() -> None:
    """Fit every source, draw from it, and ask the classifier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir = parser.parse_args().data_dir
    print("| source | area under the ROC curve |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, options) in enumerate(SOURCES.items()):
            run = Path(folder) / str(i)
            config = fit(run, options, data_dir)
            data = prepare(Options.from_json(config["options"]), 1)
            images, source = rescale(data.held_out.pixels), jgmm.load(run)
            # Draws are given the 8 bits and the range of images.
            pixels = np.asarray(source.to_pixels(source.sample(jax.random.key(1), len(images))))
            draws = rescale(np.clip(np.round(127.5 * (pixels + 1)), 0, 255).astype(np.uint8))
            print(f"| {name} | {auc(images, draws):.4f} |", flush=True)
        train = rescale(data.train.pixels[: len(images)])
        print(f"| training images | {auc(images, train):.4f} |")


if __name__ == "__main__":
    main()
