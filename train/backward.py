"""What `python -m train.reverse` does: images carried back to t = 0, and Gaussians of what they become."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jgmm.checkpoint.models import check_new, save_run
from jgmm.commands.options import to_json
from jgmm.data import Images, rescale, to_features
from jgmm.em.fitting import fit_em
from jgmm.em.initializers import kmeans
from jgmm.encoder.base import Encoder
from jgmm.encoder.images import encode_images
from jgmm.encoder.pca import fit_pca
from jgmm.errors import check
from jgmm.mixture import GMM
from jgmm.numerics.devices import jit_convolutions
from jgmm.numerics.distances import squared_distances
from jgmm.source import unnormalized
from train import runs, setup
from train.batches import in_parts
from train.flow import Flow, load
from train.reverse import Options
from train.sampler import solve

# Principal components of the images that clusters are found in.
COMPONENTS = 64


def make_source(options: Options) -> None:
    """Write the source. Raises InputError for data other than the run's, a conditional flow, and a folder that holds
    something."""
    check_new(options.out)
    config = runs.kept_config(options.run)
    images, _ = setup.load_images(replace(config, data_dir=options.data_dir or config.data_dir))
    runs.check_same_data(options.run, images)
    both = images.with_mirror_images() if config.flips else images
    check(options.k <= len(both), f"--k {options.k} is more than the {len(both)} images there are.")
    flow = load(options.run)
    check(flow.classes == 0, f"{options.run} is conditional: its images cannot be carried back without their labels.")
    x0 = carried_back(flow, both, options)
    print(f"{len(both):,} images carried back: mean {x0.mean():.3f}, deviation {x0.std():.3f}", flush=True)
    encoder, _ = fit_pca(x0)
    codes = np.asarray(encoder.encode(jnp.asarray(x0)))
    gmm, labels = METHODS[options.method](codes, both, options)
    about = {"space": config.space, "zca_epsilon": config.zca_epsilon, "data_sha256": images.sha256}
    about |= {"options": to_json(options)}
    kept = labels.astype(np.int32).reshape(-1, len(images))
    options.out.mkdir(parents=True, exist_ok=True)
    save_run(options.out, unnormalized(gmm, encoder, images.shape), {"reversed": about}, {"labels.npy": kept})
    print(f"source: {options.out}")


def carried_back(flow: Flow, images: Images, options: Options) -> Float[np.ndarray, "n p"]:
    """x0 of images: the flow solved from t = 1 to 0. Raises InputError for one that diverges."""
    back = partial(jit_convolutions(_back, "structure", "solver", "nfe"), flow.structure, flow.parameters, flow.space)
    x1 = rescale(images.pixels)
    x0 = in_parts(lambda part, _: back(part, options.solver, options.nfe), x1, options.batch_size)
    check(bool(np.isfinite(x0).all()), "the images carried back are not finite: the flow has diverged.")
    return x0.reshape(len(images), -1)


def _back(
    structure: nnx.GraphDef, parameters: nnx.State, space: Encoder, pixels: Array, solver: str, nfe: int
) -> Array:
    model = nnx.merge(structure, parameters)
    return solve(lambda t, x: -model(1 - t, x), encode_images(space, pixels), solver, nfe).x


def by_em(codes: Float[np.ndarray, "n d"], images: Images, options: Options) -> tuple[GMM, Int[np.ndarray, " n"]]:
    """A mixture of the codes by EM, and the component of each."""
    gmm = fit_em(options.seed, codes, options.k, encoder="identity").gmm
    return gmm, np.asarray(gmm.predict(codes))


def by_moments(codes: Float[np.ndarray, "n d"], images: Images, options: Options) -> tuple[GMM, Int[np.ndarray, " n"]]:
    """Clusters of images, with the moments of the codes of each, and the cluster of each image:

    (n_k S_k + n_0 S) / (n_k + n_0) are the variances, S those of all clusters together and n_0 the shrinkage. Raises
    InputError where some are 0.
    """
    rows = to_features(images.pixels)
    where = fit_pca(rows, min(COMPONENTS, *rows.shape))[0].encode(jnp.asarray(rows))
    centers = kmeans(jax.random.key(options.seed), where, options.k, jnp.ones(where.shape[1]))
    nearest = np.asarray(squared_distances(centers, jnp.ones((1, 1)))(where).argmin(axis=1))
    there, labels, count = np.unique(nearest, return_inverse=True, return_counts=True)  # clusters may be empty
    means = np.stack([codes[labels == k].mean(axis=0) for k in range(len(there))])
    spread = np.stack([codes[labels == k].var(axis=0) for k in range(len(there))])
    together = np.average(spread, axis=0, weights=count)
    share = (count / (count + options.shrinkage))[:, None]
    variances = share * spread + (1 - share) * together
    check(
        bool((variances > 0).all()),
        f"clusters of one image have no variance with --shrinkage {options.shrinkage:g}: give a larger one, or fewer "
        f"than --k {options.k}.",
    )
    return GMM.from_parameters(count / count.sum(), means, variances, "diag"), labels


METHODS = {"moments": by_moments, "em": by_em}
