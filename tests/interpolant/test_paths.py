"""The closed form against automatic differentiation, regression on draws, and its own definitions."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture_pairs import D, couplings, ends, joint_blocks

from jgmm import interpolant as ip
from jgmm.covariance.diag import Diag
from jgmm.covariance.full import Full
from jgmm.errors import InputError
from jgmm.interpolant.laws import Aligned, Dense
from jgmm.interpolant.schedules import as_smoothing
from jgmm.mixture import GMM
from jgmm.registry import SCHEDULES

TIMES = (0.0, 0.03, 0.4, 0.97, 1.0)


@jax.jit
def residuals(path, t, x):
    """How far the closed form is from automatic differentiation: score, divergence, continuity equation."""

    def log_p(t, x):
        return ip.log_prob(path, t, x[None])[0]

    def one(t, x):
        change, slope = jax.grad(log_p, (0, 1))(t, x)
        divergence = jnp.trace(jax.jacfwd(lambda x: ip.velocity(path, t, x[None])[0])(x))
        u, s = ip.velocity(path, t, x[None])[0], ip.score(path, t, x[None])[0]
        return jnp.array(
            [jnp.abs(s - slope).max(), divergence - ip.divergence(path, t, x[None])[0], change + divergence + u @ s]
        )

    return jnp.abs(jax.vmap(one)(t, x)).max()


DIAGONAL = ["diagonal", "diagonal entropic", "diagonal map", "diagonal entropic map"]
CONFIGURATIONS = [
    (DIAGONAL, ["linear"], ["none", "sine"]),
    (DIAGONAL, ["trigonometric", "polynomial"], ["brownian"]),
    (DIAGONAL, ["cosine"], ["none", "brownian"]),
    (["full", "full entropic"], ["linear", "cosine"], ["none"]),
    (["full map"], ["trigonometric"], ["none"]),
    (["full", "full map", "full entropic", "joint"], ["polynomial"], ["brownian"]),
    (["joint"], ["linear"], ["none", "sine"]),
]


@pytest.mark.parametrize(("names", "schedules", "smoothings"), CONFIGURATIONS)
def test_continuity_and_score(x64, names, schedules, smoothings):
    x = 2 * jax.random.normal(jax.random.key(2), (5, D))
    t = jnp.array([0.02, 0.3, 0.5, 0.8, 0.99])
    for name, coupling in couplings(names).items():
        for schedule in schedules:
            for smoothing in smoothings:
                path = ip.path(coupling, schedule, smoothing)
                assert residuals(path, t, x) < 1e-10, (name, schedule, smoothing)


@pytest.mark.parametrize(("family", "inside"), [("diag", "map"), ("full", "independent"), ("full", "map")])
def test_the_ends_are_the_mixtures(x64, family, inside):
    source, target = ends(family)
    path = ip.path(ip.couple(source, target, "independent", inside))
    x = 2 * jax.random.normal(jax.random.key(2), (5, D))
    np.testing.assert_allclose(ip.log_prob(path, 0.0, x), source.log_prob(x), atol=1e-9)
    np.testing.assert_allclose(ip.log_prob(path, 1.0, x), target.log_prob(x), atol=1e-9)
    np.testing.assert_allclose(ip.expected_source(path, 0.0, x), x, atol=1e-9)
    np.testing.assert_allclose(ip.expected_target(path, 1.0, x), x, atol=1e-9)


@pytest.mark.parametrize("name", ["full map", "joint"])
def test_a_time_for_every_row_and_finite_ends(x64, name):
    path = ip.path(couplings([name])[name], "trigonometric", "none")
    x, t = 2 * jax.random.normal(jax.random.key(2), (5, D)), jnp.array(TIMES)
    for f in (ip.velocity, ip.score, ip.log_prob, ip.posterior, ip.divergence, partial(ip.drift, epsilon=0.3)):
        together = f(path, t, x)
        assert jnp.isfinite(together).all()
        one_by_one = jnp.concatenate([f(path, float(time), x[i : i + 1]) for i, time in enumerate(t)])
        np.testing.assert_allclose(together, one_by_one, atol=1e-10)
    np.testing.assert_allclose(ip.posterior(path, t, x).sum(axis=1), 1, rtol=1e-12)
    a, b = path.schedule.a(t)[:, None], path.schedule.b(t)[:, None]
    middle = b * ip.expected_source(path, t, x) + a * ip.expected_target(path, t, x)
    np.testing.assert_allclose(middle, x, atol=1e-9)


def test_aligned_and_dense_laws_agree(x64):
    """The same joint law in aligned coordinates and as matrices."""
    for inside in ("independent", "map"):
        coupling = ip.couple(*ends("full"), "independent", inside)
        aligned = ip.path(coupling)
        assert isinstance(aligned.law, Aligned)
        blocks = jax.vmap(Aligned.blocks)(aligned.law)
        weights = jnp.exp(coupling.log_weights)
        dense = ip.path(ip.joint(weights, coupling.means0, coupling.means1, *blocks))
        assert isinstance(dense.law, Dense)
        x, t = 2 * jax.random.normal(jax.random.key(2), (5, D)), jnp.array([0.1, 0.3, 0.5, 0.7, 0.9])
        np.testing.assert_allclose(ip.velocity(aligned, t, x), ip.velocity(dense, t, x), atol=1e-9)
        np.testing.assert_allclose(ip.log_prob(aligned, t, x), ip.log_prob(dense, t, x), atol=1e-9)


def test_smoothing_keeps_the_coordinates_of_covariances_that_commute(x64):
    source, target = ends("full")
    sphere = GMM(source.log_weights, source.means, Full(jnp.tile(1.5 * jnp.eye(D)[None], (2, 1, 1))))
    for inside in ("independent", "map"):
        path = ip.path(ip.couple(sphere, target, "independent", inside), "linear", "brownian")
        assert isinstance(path.law, Aligned)
        x, t = jax.random.normal(jax.random.key(2), (5, D)), jnp.array([0.1, 0.3, 0.5, 0.7, 0.9])
        assert residuals(path, t, x) < 1e-10


@pytest.mark.parametrize("name", ["diagonal entropic map", "full map", "full", "joint"])
def test_draws_have_the_law_of_the_coupling(x64, name):
    path = ip.path(couplings([name])[name], "linear", "brownian" if name == "joint" else "none")
    x0, x1, x = ip.sample(jax.random.key(3), path, 0.3, 200_000)
    law = jax.vmap(type(path.law).blocks)(path.law)
    weights = np.exp(path.log_weights)
    means = np.concatenate([path.means0, path.means1], axis=1)
    s00, s01, s11 = (np.asarray(s) for s in law)
    covariances = np.block([[s00, s01], [s01.swapaxes(1, 2), s11]])
    mean = weights @ means
    spread = means - mean
    expected = np.einsum("l,lij->ij", weights, covariances) + np.einsum("l,li,lj->ij", weights, spread, spread)
    draws = np.concatenate([x0, x1], axis=1)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.15)
    noise = np.asarray(x - 0.7 * x0 - 0.3 * x1)
    np.testing.assert_allclose(noise.var(axis=0), 2 * 0.3 * 0.7 if name == "joint" else 0, atol=5e-3)


def test_velocity_is_the_regression_of_the_motion(x64):
    """The mean of ẋ − u(x) over the draws in each cell of the plane, of 10⁶ draws, in units of its standard error."""
    source, target = ends("full", k=3)
    path, t, n = ip.path(ip.couple(source, target, "independent", "map")), 0.35, 10**6
    x0, x1, x = ip.sample(jax.random.key(4), path, t, n)
    error, x = np.asarray(x1 - x0 - ip.velocity(path, t, x)), np.asarray(x)
    edges = [np.quantile(x[:, i], np.linspace(0, 1, 9)[1:-1]) for i in range(D)]
    cell = np.digitize(x[:, 0], edges[0]) * 8 + np.digitize(x[:, 1], edges[1])
    for c in range(64):
        inside = error[cell == c]
        if len(inside) > 1000:
            z = inside.mean(axis=0) / (inside.std(axis=0, ddof=1) / np.sqrt(len(inside)))
            assert (np.abs(z) < 3.9).all()  # 3 for one test; the 128 here make it 3.9
    standard_error = error.std(axis=0, ddof=1) / np.sqrt(n)
    assert (np.abs(error.mean(axis=0)) < 3 * standard_error).all()


def test_float32_is_close_to_float64(x64):
    source, target = ends("full", k=3, d=8)
    x, t = jax.random.normal(jax.random.key(2), (50, 8)), jnp.linspace(0.01, 0.99, 50)
    by_dtype = {}
    for dtype in ("float32", "float64"):
        cast = partial(jax.tree.map, lambda a, dtype=dtype: a.astype(dtype))
        path = ip.path(ip.couple(cast(source), cast(target), "independent", "map"))
        by_dtype[dtype] = np.asarray(ip.velocity(path, t.astype(dtype), x.astype(dtype)), np.float64)
    error = np.linalg.norm(by_dtype["float32"] - by_dtype["float64"], axis=1)
    assert (error / np.linalg.norm(by_dtype["float64"], axis=1)).max() < 1e-4


def test_singular_covariances_stay_finite(x64):
    path = ip.path(ip.joint(jnp.array([0.5, 0.5]), jnp.zeros((2, D)), jnp.ones((2, D)), *joint_blocks(2, rank=1)))
    flat = GMM(jnp.zeros(1), jnp.zeros((1, D)), Diag(jnp.array([[1.0, 0.0]])))
    x = jax.random.normal(jax.random.key(2), (5, D))
    for p in (path, ip.path(ip.couple(flat, ends("full", k=1)[1]))):
        for t in TIMES:
            assert all(jnp.isfinite(f(p, t, x)).all() for f in (ip.velocity, ip.score, ip.log_prob))


def test_velocity_can_be_jitted_and_differentiated(x64):
    path = ip.path(ip.couple(*ends("diag")))
    x = jax.random.normal(jax.random.key(2), (5, D))
    loss = jax.jit(lambda path, x: (ip.velocity(path, 0.3, x) ** 2).sum())
    gradient = jax.grad(loss, allow_int=True)(path, x)
    step = 1e-6
    moved = jax.tree.map(lambda a: a, path)
    shifted = type(path)(
        moved.log_weights, moved.means0.at[0, 0].add(step), moved.means1, moved.law, moved.schedule, moved.smoothing
    )
    np.testing.assert_allclose((loss(shifted, x) - loss(path, x)) / step, gradient.means0[0, 0], rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_path_can_be_pickled(schedule, x64):
    path = ip.path(ip.couple(*ends("diag")), schedule, "brownian")
    again = pickle.loads(pickle.dumps(path))
    np.testing.assert_array_equal(ip.velocity(again, 0.3, POINTS), ip.velocity(path, 0.3, POINTS))


def diagonal_path():
    return ip.path(ip.couple(*ends("diag")))


POINTS = jnp.zeros((3, D))
BAD = {
    "same dimension": lambda: ip.couple(ends("diag")[0], ends("diag", d=3)[1]),
    "sum to 1": lambda: ip.couple(GMM(jnp.zeros(2), *_rest(ends("diag")[0])), ends("diag")[1]),
    "Did you mean 'optimal'": lambda: ip.couple(*ends("diag"), "optimum"),
    "inside must be": lambda: ip.couple(*ends("diag"), "optimal", "both"),
    "sums over axis 0": lambda: ip.couple(*ends("diag"), np.outer(np.exp(ends("diag")[0].log_weights), [0.9, 0.1])),
    "shape \\(2, 2\\)": lambda: ip.couple(*ends("diag"), np.ones((3, 2)) / 6),
    "not positive semi-definite": lambda: ip.joint(
        jnp.ones(1), jnp.zeros((1, D)), jnp.zeros((1, D)), jnp.eye(D)[None], 2 * jnp.eye(D)[None], jnp.eye(D)[None]
    ),
    "as many components": lambda: ip.couple(ends("diag")[0], ends("diag", k=3)[1], "matched"),
    "epsilon must be above 0": lambda: ip.couple(*ends("diag"), "entropic", epsilon=0.0),
    "from 0 \\(the source\\) to 1": lambda: ip.velocity(diagonal_path(), 1.2, POINTS),
    "expected points of shape": lambda: ip.velocity(diagonal_path(), 0.2, POINTS[:, :1]),
    "t must be a number": lambda: ip.score(diagonal_path(), jnp.zeros(2), POINTS),
    "unknown schedule 'linaer'": lambda: ip.path(ip.couple(*ends("diag")), "linaer"),
    "a_1 = 1": lambda: ip.Schedule(lambda t: t / 2, lambda t: 1 - t),
    "falling b_t": lambda: ip.Schedule(lambda t: t, lambda t: 1 - t + jnp.sin(2 * jnp.pi * t)),
    "γ² must be zero": lambda: as_smoothing(lambda t: 1 - t),
    "unknown solver": lambda: ip.transport(diagonal_path(), POINTS, solver="rk45"),
    "steps must be": lambda: ip.transport(diagonal_path(), POINTS, steps=0),
    "epsilon must be at least": lambda: ip.diffuse(jax.random.key(0), diagonal_path(), POINTS, epsilon=-1.0),
}


def _rest(gmm):
    return gmm.means, gmm.covariance


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()
