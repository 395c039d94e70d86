"""The pieces of the trainer: network, batches, sources, couplings, spaces, solvers."""

from dataclasses import replace
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import random_mixture
from scipy.special import gammaln

import jgmm
from jgmm.data import load, to_features
from jgmm.encoder.identity import Identity
from jgmm.encoder.images import decode_images, encode_images
from jgmm.encoder.pca import fit_pca
from jgmm.errors import InputError
from jgmm.source import normalize
from train import base, batches, sampler, setup, sources
from train.config import PRESETS, Config
from train.couplings.assignment import Assignment, assign
from train.couplings.base import squared_distances
from train.couplings.component import Component, component
from train.models.unet import n_parameters
from train.registry import SPACES

TINY = PRESETS["tiny"]
DIGITS = (8, 8, 1)
PIXELS = Identity(64)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def mixture_of(rng, images, k=4):
    """A source with a random mixture in the principal codes of the images."""
    rotation, _ = fit_pca(images.pixels.reshape(len(images), -1), 6, scale=1 / 127.5, shift=-1.0)
    ones = jnp.ones((1, 1, 1))
    gmm = random_mixture(rng, "full", k, 6, "float32")
    return normalize(jgmm.Source(gmm, rotation, 0 * ones, ones, images.shape))


def test_the_recipe_has_its_number_of_parameters():
    """torchcfm, examples/images/cifar10: 35,746,307."""
    model = nnx.eval_shape(lambda: setup.network(Config(), (32, 32, 3), 0))
    assert n_parameters(model) == 35_746_307
    assert n_parameters(nnx.eval_shape(lambda: setup.network(TINY, (32, 32, 3), 0))) < 1_000_000


@pytest.mark.slow
def test_labels_dropout_and_rematerialization():
    config = replace(TINY, base=8, multipliers=(1,), head_channels=4, dropout=0.5)
    x, t = jax.random.normal(jax.random.key(0), (3, *DIGITS)), jnp.array([0.1, 0.5, 0.9])
    outputs = []
    for remat in (False, True):
        model = setup.network(replace(config, remat=remat), DIGITS, 10)
        structure, parameters = nnx.split(model)  # at the start many of them are zero
        noise = np.random.default_rng(0)
        moved = jax.tree.map(lambda leaf, noise=noise: leaf + 0.1 * noise.normal(size=leaf.shape), parameters)
        parameters = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), moved)
        model = nnx.merge(structure, parameters)
        solved = jax.eval_shape(
            lambda p, s=structure: sampler.images(s, p, PIXELS, x, jnp.array([0, 1, -1]), "euler", 2),
            parameters,
        )
        assert solved.x.shape == x.shape

        @nnx.jit
        def both(model):
            def loss(model):
                return (model(t, x, jnp.array([0, 1, -1]), key=jax.random.key(2)) ** 2).mean()

            return model(t, x, jnp.array([0, 1, -1])), model(t, x), nnx.grad(loss)(model)

        outputs.append(both(model))
        program = jax.make_jaxpr(lambda p, s=structure: nnx.merge(s, p)(t, x))(parameters)
        assert ("remat" in str(program)) == remat
    for a, b in zip(*map(jax.tree.leaves, outputs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()))
    labelled, bare, gradient = outputs[0]
    assert np.abs(labelled[:2] - bare[:2]).max() > 1e-3
    np.testing.assert_allclose(labelled[2], bare[2], atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_batches_are_a_function_of_seed_and_step():
    n, size = 25, 10
    stream = np.concatenate([batches.indices(3, step, n, size) for step in range(10)])
    for epoch in range(4):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))
    np.testing.assert_array_equal(batches.indices(3, 7, n, size), stream[70:80])
    assert not np.array_equal(batches.indices(4, 0, n, size), stream[:10])


def test_taking_images(digits):
    index = jnp.array([5, 900, 1700])
    plain = batches.Data(jnp.asarray(digits.pixels), None, PIXELS, False).take(jax.random.key(0), index)
    np.testing.assert_allclose(plain.images.reshape(3, -1), to_features(digits.pixels[[5, 900, 1700]]), atol=1e-6)
    many = jnp.zeros(400, jnp.int32)
    flipped = batches.Data(jnp.asarray(digits.pixels), None, PIXELS, True).take(jax.random.key(0), many)
    assert 150 < flipped.mirrored.sum() < 250
    which = np.asarray(flipped.mirrored)
    np.testing.assert_array_equal(flipped.images[which][0], flipped.images[~which][0][:, ::-1])


def test_whitening_is_inverted_and_white(digits):
    space = base.zca_space(TINY, digits)
    assert TINY.zca_epsilon == 1e-3
    x = jnp.asarray(to_features(digits.pixels).reshape(-1, *DIGITS))
    y = encode_images(space, x)
    np.testing.assert_allclose(decode_images(space, y), x, atol=1e-3)
    e, v = np.linalg.eigh(np.cov(to_features(digits.pixels).T.astype(float), bias=True))
    np.testing.assert_allclose(np.cov(y.reshape(len(y), -1).T, bias=True), (v * (e / (e + 1e-3))) @ v.T, atol=2e-3)


@pytest.mark.parametrize("space", ["pixel", "zca"])
def test_sources_and_their_alignment(space, digits):
    where = SPACES[space](TINY, digits)
    x = encode_images(where, jnp.asarray(to_features(digits.pixels).reshape(-1, *DIGITS)))
    wanted = float(jnp.linalg.norm(x.reshape(len(x), -1), axis=1).mean())
    for name in ("gaussian", "mle"):
        config = replace(TINY, source=name)
        plain = sources.build(config, digits, where)
        aligned = sources.build(replace(config, norm_align=True), digits, where)
        drawn = np.asarray(aligned.draw(jax.random.key(1), 4000)).reshape(4000, -1)
        assert np.linalg.norm(drawn, axis=1).mean() == pytest.approx(wanted, rel=0.02)
        raw = np.asarray(plain.draw(jax.random.key(1), 4000)).reshape(4000, -1)
        if name == "gaussian":  # E|N(0, I)| = √2 Γ((D + 1) / 2) / Γ(D / 2)
            norm = np.sqrt(2) * np.exp(gammaln(32.5) - gammaln(32))
            assert np.linalg.norm(raw, axis=1).mean() == pytest.approx(norm, rel=0.01)
        elif space == "zca":  # one Gaussian with the moments of the images
            np.testing.assert_allclose(raw.mean(axis=0), 0, atol=0.1)
            np.testing.assert_allclose(raw.var(axis=0), np.asarray(x).reshape(len(x), -1).var(axis=0), atol=0.15)
        else:
            assert abs(raw.mean()) < 0.05
            assert raw.std() == pytest.approx(1, abs=0.05)


def test_pruned_draws_avoid_directions_without_images(digits):
    pruned = sources.prune(sources.Gaussian(DIGITS), digits, PIXELS)
    both = digits.with_mirror_images()
    unit = to_features(both.pixels)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    assert len(pruned.axes) > 0
    assert (unit @ np.asarray(pruned.axes).T).max() <= sources.SPARSE + 1e-6
    x = np.asarray(pruned.draw(jax.random.key(0), 50)).reshape(50, -1)
    cosine = x @ np.asarray(pruned.axes).T / np.linalg.norm(x, axis=1, keepdims=True)
    assert cosine.max() <= sources.REJECTED + 1e-6


def batch_from(pixels):
    n = len(pixels)
    return batches.Batch(pixels, pixels, None, jnp.arange(n), jnp.zeros(n, bool))


def test_an_assignment_is_a_permutation_and_the_best(rng):
    x0, x1 = (jnp.asarray(rng.normal(size=(6, 2, 2, 1)), jnp.float32) for _ in range(2))
    cost = np.asarray(squared_distances(x0, x1))
    brute = ((np.asarray(x1)[:, None] - np.asarray(x0)[None]) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(cost, brute, atol=1e-4)
    order = assign(cost)
    assert sorted(order) == list(range(6))
    best = min(sum(brute[i, j] for i, j in enumerate(p)) for p in permutations(range(6)))
    assert sum(brute[i, j] for i, j in enumerate(order)) == pytest.approx(best, rel=1e-5)
    source = sources.Gaussian((2, 2, 1))
    coupled = Assignment(source).x0(jax.random.key(0), batch_from(x1), jnp.asarray(order))
    np.testing.assert_array_equal(coupled, source.draw(jax.random.key(0), 6)[order])


@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize("space", ["pixel", "zca"])
def test_component_coupling_keeps_the_marginal(rho, space, rng, digits):
    """Images drawn from the mixture itself: x0 must then have the mixture's law, and with ρ follow the image."""
    params = mixture_of(rng, digits)
    where = SPACES[space](replace(TINY, zca_epsilon=1e-2), digits)
    scale = jnp.asarray(0.7)
    source = sources.Mixture(params if space == "pixel" else normalize(params, "none"), where, scale)
    raw = normalize(params, "none")
    n = 20_000
    x1 = jgmm.sample(jax.random.key(0), raw, n)
    r = params.gmm.responsibilities(params.encoder.encode(x1.reshape(n, -1)))
    coupling = Component(source, jnp.log(jnp.maximum(r, 1e-30))[None], rho)
    x0 = np.asarray(coupling.x0(jax.random.key(1), batch_from(x1), None)).reshape(n, -1)
    free = np.asarray(source.draw(jax.random.key(2), n)).reshape(n, -1)
    scale = free.std(axis=0)
    np.testing.assert_allclose((x0.mean(axis=0) - free.mean(axis=0)) / scale, 0, atol=0.05)
    np.testing.assert_allclose(x0.std(axis=0) / scale, 1, atol=0.05)
    np.testing.assert_allclose(np.cov(x0.T), np.cov(free.T), atol=0.06 * scale.max() ** 2)
    x = np.asarray(encode_images(where, x1)).reshape(n, -1)
    x = x if space == "zca" else (x - np.ravel(params.mean)) / np.ravel(params.std)
    x = 0.7 * x
    near = ((x0 - x) ** 2).mean() / ((free - x) ** 2).mean()
    assert near < (0.35 if rho else 0.98)


def test_responsibilities_of_images_and_their_mirror_images(rng, digits):
    few = digits.take(np.arange(50))
    source = sources.Mixture(mixture_of(rng, digits), PIXELS)
    found = component(replace(TINY, coupling="component", flips=True), few, source, PIXELS)
    mirrored = to_features(few.pixels[:, :, ::-1])
    expected = source.params.gmm.responsibilities(source.params.encoder.encode(jnp.asarray(mirrored)))
    np.testing.assert_allclose(np.exp(found.log_r[1]), expected, atol=1e-4)


@pytest.mark.parametrize(("solver", "nfe"), [("euler", 8), ("midpoint", 8), ("heun", 8), ("dopri5", 1)])
def test_solvers_make_the_evaluations_they_report(solver, nfe):
    """dx = x dt on [0, 1]: the end is e x0."""
    seen = []

    def velocity(t, x):
        jax.debug.callback(lambda: seen.append(1))
        return x

    solved = jax.jit(lambda x: sampler.solve(velocity, x, solver, nfe))(jnp.ones((2, 1, 1, 1)))
    jax.effects_barrier()
    assert len(seen) == int(solved.evaluations)
    assert solver == "dopri5" or len(seen) == nfe
    np.testing.assert_allclose(solved.x, np.e, rtol={"euler": 0.1, "dopri5": 1e-4}.get(solver, 0.02))


def test_guidance_goes_past_the_label():
    def model(t, x, labels=None):
        return x if labels is None else 3 * x

    x = jnp.ones((2, 1, 1, 1))
    for guidance, expected in ((0.0, 1), (1.0, 3), (2.0, 5)):
        velocity = sampler.guided(model, jnp.zeros(2, jnp.int32), guidance)
        np.testing.assert_allclose(velocity(jnp.zeros(2), x), expected)


def test_bad_solvers_and_runs_are_refused(tmp_path, rng, digits):
    for solver, nfe, message in (("rk45", 10, "unknown solver"), ("euler", 0, "from 1 to"), ("heun", 9, "multiple")):
        with pytest.raises(InputError, match=message):
            sampler.check_solver(solver, nfe)
    jgmm.save(tmp_path / "run", mixture_of(rng, digits))
    sixteenths = replace(digits, pixels=to_features(digits.pixels).reshape(-1, *DIGITS) * 8 + 8)
    with pytest.raises(InputError, match="fit it to data in the same units"):
        sources.build(replace(TINY, source=str(tmp_path / "run")), sixteenths, PIXELS)
    with pytest.raises(InputError, match=r"models images of shape \(8, 8, 1\), the data have \(32, 32, 3\)"):
        sources.build(replace(TINY, source=str(tmp_path / "run")), load("photos"), PIXELS)
