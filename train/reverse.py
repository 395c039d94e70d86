"""`python -m train.reverse RUN`: a mixture source made of the images that a trained flow carries backward."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jgmm.commands import cli
from jgmm.commands.options import one_of
from jgmm.errors import check, check_count, check_number, check_seed
from jgmm.registry import SOLVERS

if TYPE_CHECKING:
    import numpy as np

    from jgmm.data import Images
    from jgmm.encoder.base import Encoder
    from jgmm.mixture import GMM
    from train.flow import Flow

PROG = "python -m train.reverse"
# Principal components of the images that clusters are found in.
COMPONENTS = 64


@dataclass(frozen=True)
class Options:
    """Carry the images of a flow back to t = 0, and fit Gaussians to what they become: a source for
    `python -m train --source OUT --coupling component-ot`."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m train`."""
    out: Path
    """The folder for the source."""
    k: int = 100
    """The number of Gaussians."""
    method: Literal["moments", "em"] = "moments"
    """Clusters of images by k-means, each with the mean and the variances of what its images become (moments; COT-FM,
    CVPR 2026), or a mixture fitted to all of these by EM (em)."""
    shrinkage: float = 50.0
    """The number of images that the variances of all clusters together count for in each, for --method moments."""
    solver: Annotated[str, one_of(SOLVERS)] = "heun"
    """The solver of the flow."""
    nfe: int = 20
    """The number of evaluations of the network."""
    batch_size: int = 250
    """The number of images carried at a time."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files, if it has moved."""
    seed: int = 0
    """The seed of the fit."""

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the run is seen."""
        check_count("--k", self.k)
        check_count("--batch-size", self.batch_size)
        check_number("--shrinkage", self.shrinkage, least=0)
        check_seed("--seed", self.seed)


def main(args: Sequence[str] | None = None) -> None:
    """Parse, carry the images back, fit, write."""
    options = cli.parse(Options, prog=PROG, args=args)
    options.check()

    from jgmm.checkpoint.models import check_new, save_run
    from jgmm.source import unnormalized
    from train import runs, setup
    from train.flow import load
    from train.sampler import check_solver

    check_solver(options.solver, options.nfe)
    check_new(options.out)
    cli.compile_once()
    content = runs.read(options.run)
    config = runs.config_of(options.run, content)
    images, _ = setup.load_images(replace(config, data_dir=options.data_dir or config.data_dir))
    runs.check_same_data(options.run, images)
    both = images.with_mirror_images() if config.flips else images
    check(options.k <= len(both), f"--k {options.k} is more than the {len(both)} images there are.")
    flow = load(options.run)
    x0 = carried_back(flow, both, options)
    print(f"{len(both):,} images carried back: mean {x0.mean():.3f}, deviation {x0.std():.3f}", flush=True)
    gmm, encoder, labels = gaussians(x0, both, options)
    source = unnormalized(gmm, encoder, images.shape)
    views = 2 if config.flips else 1
    about = {"space": config.space, "zca_epsilon": config.zca_epsilon, "data_sha256": images.sha256}
    options.out.mkdir(parents=True, exist_ok=True)
    save_run(options.out, source, {"reversed": about}, {"labels.npy": labels.reshape(views, -1)})
    print(f"source: {options.out}")


def carried_back(flow: "Flow", images: "Images", options: Options) -> "np.ndarray":
    """x0 of images [N, P]: the flow solved from t = 1 to 0."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from jgmm.data import rescale
    from jgmm.encoder.base import Encoder
    from jgmm.encoder.images import encode_images
    from jgmm.numerics.devices import convolution_options
    from train.sampler import solve

    check(flow.classes == 0, f"{options.run} is conditional: its images cannot be carried back without their labels.")

    def back(parameters: nnx.State, space: Encoder, pixels: jax.Array) -> jax.Array:
        model = nnx.merge(flow.structure, parameters)
        x1 = encode_images(space, pixels)
        return solve(lambda t, x: -model(1 - t, x), x1, options.solver, options.nfe).x

    carry, size, found = jax.jit(back, compiler_options=convolution_options()), options.batch_size, []
    for start in range(0, len(images), size):
        part = rescale(images.pixels[start : start + size])
        padded = jnp.asarray(np.pad(part, ((0, size - len(part)), *[(0, 0)] * 3)))
        found.append(np.asarray(carry(flow.parameters, flow.space, padded))[: len(part)])
    x0 = np.concatenate(found).reshape(len(images), -1)
    check(bool(np.isfinite(x0).all()), "the images carried back are not finite: the flow has diverged.")
    return x0


def gaussians(x0: "np.ndarray", images: "Images", options: Options) -> tuple["GMM", "Encoder", "np.ndarray"]:
    """A mixture of the whitened principal components of x0, these, and the component of every image."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jgmm.covariance.diag import Diag
    from jgmm.data import to_features
    from jgmm.em.fitting import fit_em
    from jgmm.em.initializers import kmeans
    from jgmm.encoder.pca import fit_pca
    from jgmm.mixture import GMM
    from jgmm.numerics.distances import squared_distances

    encoder, _ = fit_pca(x0)
    codes = np.asarray(encoder.encode(jnp.asarray(x0)))
    if options.method == "em":
        fit = fit_em(options.seed, codes, options.k, encoder="identity")
        return fit.gmm, encoder, np.asarray(fit.gmm.predict(codes), np.int32)
    rows = to_features(images.pixels)
    where = fit_pca(rows, min(COMPONENTS, rows.shape[1]))[0].encode(jnp.asarray(rows))
    centers = kmeans(jax.random.key(options.seed), where, options.k, jnp.ones(where.shape[1]))
    labels = np.asarray(squared_distances(centers, jnp.ones((1, 1)))(where).argmin(axis=1))
    there, labels, count = np.unique(labels, return_inverse=True, return_counts=True)  # clusters may be empty
    means = np.stack([codes[labels == k].mean(axis=0) for k in range(len(there))])
    spread = np.stack([codes[labels == k].var(axis=0) for k in range(len(there))])
    pooled = np.average(spread, axis=0, weights=count)
    share = (count / (count + options.shrinkage))[:, None]
    variances = jnp.asarray(share * spread + (1 - share) * pooled, jnp.float32)
    gmm = GMM(jnp.log(jnp.asarray(count / count.sum(), jnp.float32)), jnp.asarray(means, jnp.float32), Diag(variances))
    return gmm, encoder, labels.astype(np.int32)


if __name__ == "__main__":
    cli.run(main)
