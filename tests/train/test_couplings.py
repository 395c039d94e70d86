"""Couplings by optimal transport: against the linear program, exact marginals, and what is remembered."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import random_mixture
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.optimize import linear_sum_assignment

from jgmm.data import Images
from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.source import normalize, unnormalized
from train import setup
from train import step as steps
from train.base import Base
from train.batches import Data, keys_of
from train.config import PRESETS
from train.couplings import base as couplings
from train.couplings.assignment import Cache, ComponentAssignment, assign
from train.couplings.potential import quality, start
from train.couplings.semidiscrete import Semidiscrete
from train.sources import Gaussian, Mixture

SHAPE, PLANE = (1, 1, 2), Identity(2)
FLAT = replace(PRESETS["tiny"], flips=False, batch_size=8)


def images_in_the_plane(rng, n):
    pixels = rng.normal(size=(n, *SHAPE)).astype(np.float32)
    pixels[: n // 2, 0, 0, 0] += 4
    return Images("plane", pixels, None, "here", "raw", has_mirror_images=False)


def mixture_in_the_plane(rng):
    gmm = random_mixture(rng, "full", 3, 2, "float32")
    return Mixture(normalize(unnormalized(gmm, PLANE, SHAPE), "none"), PLANE)


def data_of(images):
    return Data(jnp.asarray(images.pixels), None, PLANE, False)


@pytest.fixture(scope="module")
def transported():
    """64 images, and the coupling of N(0, I) with them."""
    images = images_in_the_plane(np.random.default_rng(0), 64)
    config = replace(FLAT, coupling="semidiscrete")
    return images, couplings.build(config, images, Base(PLANE, Gaussian(SHAPE)))


def test_semidiscrete_is_the_plan_of_the_linear_program(transported):
    """Every image takes as many of 2,048 draws as any other, at the least cost."""
    images, coupling = transported
    codes, group = coupling.draws(jax.random.key(5), 2048)
    y = images.pixels.reshape(64, 2)
    cost = ((np.asarray(codes)[:, None] - y[None]) ** 2).sum(axis=2)
    plan = linear_sum_assignment(np.repeat(cost, 32, axis=1))[1] // 32
    mine = np.asarray(coupling.nearest(coupling.potential, codes, group))
    assert (plan == mine).mean() > 0.85  # of the others the plan of a sample is not that of the law
    assert cost[np.arange(2048), mine].mean() == pytest.approx(cost[np.arange(2048), plan].mean(), rel=0.02)


def test_a_draw_goes_to_the_nearest_image_of_its_group(transported, rng):
    """Of more images than are compared at a time, in two groups that share some."""
    _, coupling = transported
    y, g, x = (rng.normal(size=size).astype(np.float32) for size in ((2500, 2), (2, 2500), (300, 2)))
    group, own = rng.integers(2, size=300), rng.random((2, 2500)) < 0.6
    log_b = jnp.where(own, -1.0, -jnp.inf).astype(jnp.float32)
    many = replace(coupling, codes=jnp.asarray(y), log_b=log_b, potential=jnp.asarray(g))
    found = np.asarray(many.nearest(many.potential, jnp.asarray(x), jnp.asarray(group)))
    score = np.where(own, g, -np.inf)[group] - ((x[:, None].astype(np.float64) - y[None]) ** 2).sum(axis=2)
    assert own[group, found].all()
    np.testing.assert_allclose(score[np.arange(300), found], score.max(axis=1), atol=1e-5)


def test_the_fit_starts_from_the_potential_of_gaussians(transported):
    """Which is far better than none."""
    _, coupling = transported
    first, unit = start(jax.random.key(0), coupling)
    begun, none = (quality(jax.random.key(9), coupling, g, 0).chi2 for g in (first, jnp.zeros_like(first)))
    assert begun < 0.6 * none
    assert 1 < unit < 100


def test_semidiscrete_gives_every_image_its_share_and_x0_the_law_of_the_source(transported):
    images, coupling = transported
    assert quality(jax.random.key(9), coupling, coupling.potential, 0).chi2 < 0.02
    pairs = jax.jit(lambda c, keys, index: c.pairs(keys, data_of(images), index, None, ()))
    found = pairs(coupling, keys_of(0, jnp.asarray(3)), jnp.zeros(4096, jnp.int32))
    drawn = coupling.source.draw(keys_of(0, jnp.asarray(3)).coupling, 4096)
    np.testing.assert_allclose(found.x0, drawn, rtol=1e-5, atol=1e-6)
    counts = np.bincount(found.batch.rows, minlength=64)
    assert 0.5 < counts.min() / 64 <= counts.max() / 64 < 1.6
    np.testing.assert_array_equal(found.batch.images, images.pixels[np.asarray(found.batch.rows)])


def loss_of(pairs):
    return ((pairs.x0 - pairs.batch.images) ** 2).mean()


def test_every_device_looks_up_its_part_of_the_batch(transported):
    images, coupling = transported
    work = []
    for places in (1, 8):
        mesh = jax.make_mesh((places,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:places])
        index = jax.device_put(jnp.zeros(4096, jnp.int32), NamedSharding(mesh, PartitionSpec("data")))
        loss = jax.jit(lambda keys, index: loss_of(coupling.pairs(keys, data_of(images), index, None, ())))
        work.append(loss.lower(keys_of(0, jnp.asarray(3)), index).compile().cost_analysis()["flops"])
    assert work[1] < 0.3 * work[0]


@pytest.mark.slow
def test_semidiscrete_by_component_stays_in_the_component(rng):
    source = mixture_in_the_plane(rng)
    draws, k = source.draw_components(jax.random.key(0), 90)
    images = Images("plane", np.asarray(draws), None, "here", "raw", has_mirror_images=False)
    config = replace(FLAT, coupling="component-semidiscrete", potential_rounds=2)
    coupling = couplings.build(config, images, Base(PLANE, source))
    assert isinstance(coupling, Semidiscrete)
    shares = source.params.gmm.responsibilities(jnp.asarray(images.pixels).reshape(90, 2))
    _, group = coupling._drawn(keys_of(0, jnp.asarray(0)).coupling, 256)
    found = coupling.pairs(keys_of(0, jnp.asarray(0)), data_of(images), jnp.zeros(256, jnp.int32), None, ())
    assert np.asarray(shares)[np.asarray(found.batch.rows), np.asarray(group)].min() > 1e-3
    np.testing.assert_allclose(np.exp(coupling.log_b).sum(axis=1), 1, rtol=1e-4)


@pytest.mark.slow
def test_mirror_images_are_images_too(rng):
    pixels = rng.normal(size=(20, 2, 2, 1)).astype(np.float32)
    images = Images("small", pixels, None, "here", "raw")
    config = replace(FLAT, flips=True, coupling="semidiscrete", potential_rounds=1, epsilon=0.05)
    coupling = couplings.build(config, images, Base(Identity(4), Gaussian((2, 2, 1))))
    data = Data(jnp.asarray(pixels), None, Identity(4), True)
    found = coupling.pairs(keys_of(0, jnp.asarray(0)), data, jnp.zeros(512, jnp.int32), None, ())
    rows, mirrored = np.asarray(found.batch.rows), np.asarray(found.batch.mirrored)
    assert 0.3 < mirrored.mean() < 0.7
    np.testing.assert_array_equal(found.batch.pixels[mirrored], pixels[rows[mirrored]][:, :, ::-1])


@pytest.mark.slow
def test_an_assignment_in_components_is_the_best_that_keeps_them(rng):
    source = mixture_in_the_plane(rng)
    images = images_in_the_plane(rng, 40)
    coupling = couplings.build(replace(FLAT, coupling="component-ot"), images, Base(PLANE, source))
    assert isinstance(coupling, ComponentAssignment)
    keys, index = keys_of(0, jnp.asarray(0)), jnp.arange(24)
    order = assign(np.asarray(coupling.cost(keys, data_of(images), index, ())))
    batch = data_of(images).take(keys.flips, index)
    draws, k = coupling._draws(keys.coupling, batch)
    np.testing.assert_array_equal(np.asarray(k)[order], k)
    found = np.asarray(coupling.pairs(keys, data_of(images), index, jnp.asarray(order), ()).x0)
    for one in np.unique(k):
        own = np.flatnonzero(k == one)
        cost = ((images.pixels[own].reshape(-1, 1, 2) - np.asarray(draws)[own].reshape(1, -1, 2)) ** 2).sum(axis=2)
        best = cost[linear_sum_assignment(cost)].sum()
        assert ((images.pixels[own] - found[own]) ** 2).sum() == pytest.approx(best, rel=1e-4)


@pytest.mark.slow
def test_a_cache_exchanges_draws_and_keeps_them_all(rng):
    images = images_in_the_plane(rng, 30)
    coupling = couplings.build(replace(FLAT, coupling="cache"), images, Base(PLANE, Gaussian(SHAPE)))
    assert isinstance(coupling, Cache)
    memory: Any = coupling.begin()
    data = data_of(images)
    for i in range(60):
        index = jnp.asarray(np.random.default_rng(i).permutation(30)[:10])
        keys = keys_of(0, jnp.asarray(i))
        order = jnp.asarray(assign(np.asarray(coupling.cost(keys, data, index, memory))))
        found = coupling.pairs(keys, data, index, order, memory)
        memory = found.memory
    assert sorted(np.ravel(memory)) == list(range(30))
    everything = coupling.pairs(keys, data, jnp.arange(30), jnp.arange(30), memory)
    whole = ((images.pixels.reshape(30, 1, 2) - np.asarray(everything.x0).reshape(1, 30, 2)) ** 2).sum(axis=2)
    assert np.trace(whole) < 1.1 * whole[linear_sum_assignment(whole)].sum()


def test_what_a_source_cannot_serve_is_refused(rng):
    images = images_in_the_plane(rng, 10)
    for name in ("component", "component-ot", "component-semidiscrete"):
        with pytest.raises(InputError, match="draws from a mixture"):
            couplings.build(replace(FLAT, coupling=name), images, Base(PLANE, Gaussian(SHAPE)))
    far = replace(mixture_in_the_plane(rng).params, mean=jnp.full((1, 1, 1), 0.0))
    gmm = replace(far.gmm, means=far.gmm.means.at[2].set(1e3))
    source = Mixture(replace(far, gmm=gmm), PLANE)
    with pytest.raises(InputError, match="1 of the 3 components of the source have no images"):
        couplings.build(replace(FLAT, coupling="component-semidiscrete"), images, Base(PLANE, source))


@pytest.mark.slow
def test_draws_of_conditional_flows_keep_their_labels(rng):
    """x0 of the images of one label has the law of the source, however far the images of the labels are apart."""
    images = replace(images_in_the_plane(rng, 40), labels=np.repeat([1, 0], 20))
    data = replace(data_of(images), labels=jnp.asarray(images.labels, jnp.int32))
    config = replace(FLAT, coupling="ot", conditional=True)
    coupling = couplings.build(config, images, Base(PLANE, Gaussian(SHAPE)))
    inputs, index, step = steps.StepInputs(data, coupling), jnp.arange(4, 36), jnp.asarray(5)
    order = assign(np.asarray(steps.make_cost(config)(inputs, (), step, index)))
    np.testing.assert_array_equal(images.labels[4:36][order], images.labels[4:36])
    draws = np.asarray(coupling.source.draw(keys_of(0, step).coupling, 32)).reshape(32, 2)
    for label in (0, 1):
        own = np.flatnonzero(images.labels[4:36] == label)
        cost = ((images.pixels[4:36].reshape(32, 1, 2)[own] - draws[own][None]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(order[own], own[assign(cost)])
    for name in ("component", "component-ot", "semidiscrete", "component-semidiscrete"):
        with pytest.raises(InputError, match="for --conditional take independent, ot or cache"):
            couplings.build(replace(config, coupling=name), images, Base(PLANE, mixture_in_the_plane(rng)))


def test_options_of_a_preset_are_not_given(rng):
    """A coupling without the preset's cost axes does not ask to leave them out."""
    config = replace(PRESETS["mixture"], flips=False, batch_size=8, coupling="ot")
    images, start = images_in_the_plane(rng, 10), Base(PLANE, Gaussian(SHAPE))
    assert couplings.build(config, images, start).assigned
    with pytest.raises(InputError, match="--cost-axes is no option of --coupling ot"):
        couplings.build(replace(config, cost_axes=1), images, start)


def test_images_that_are_all_the_same_have_a_potential(rng):
    images = replace(images_in_the_plane(rng, 12), pixels=np.ones((12, *SHAPE), np.float32))
    coupling: Any = couplings.build(
        replace(FLAT, coupling="semidiscrete"), images, Base(PLANE, Gaussian(SHAPE)), {"potential": np.zeros((1, 12))}
    )
    assert np.isfinite(start(jax.random.key(0), coupling)[0]).all()


@pytest.mark.slow
def test_several_steps_in_one_program_are_these_steps(rng, tmp_path):
    config = replace(FLAT, base=4, multipliers=(1,), head_channels=4, data=tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", images_in_the_plane(rng, 30).pixels)
    made = setup.build(config)
    structure, parameters = nnx.split(setup.network(config, SHAPE, 0))
    step = steps.make_step(config, structure)
    index = jnp.asarray(np.random.default_rng(0).integers(30, size=(3, 8)))
    one = steps.begin(config, parameters)
    for i in range(3):
        one, _ = jax.jit(step)(one, made.inputs, index[i], None)
    several, seen = jax.jit(steps.unrolled(step))(steps.begin(config, parameters), made.inputs, index, None)
    assert seen["loss"].shape == (3,)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
