"""Points carried along paths, and what is said of the paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture_pairs import D, couplings, ends

from jgmm import interpolant as ip
from jgmm.covariance.full import Full
from jgmm.errors import InputError
from jgmm.interpolant import figures, learned, solvers
from jgmm.mixture import GMM

NAMES = [pytest.param("diagonal entropic map", marks=pytest.mark.slow), "full map", "joint"]


def sliced_w2(x, y, directions=50):
    """The root mean square W2 distance of projections of two sets of as many points."""
    v = np.random.default_rng(0).normal(size=(x.shape[1], directions))
    v /= np.linalg.norm(v, axis=0)
    return np.sqrt(((np.sort(np.asarray(x) @ v, axis=0) - np.sort(np.asarray(y) @ v, axis=0)) ** 2).mean())


def draws(path, seed, n=4000):
    x0, x1, _ = ip.sample(jax.random.key(seed), path, 0.0, n)
    return x0, x1


def within_sampling_error(path, x):
    """Whether x is as close to draws of p1 as other draws are."""
    sets = [draws(path, seed)[1] for seed in range(10, 16)]
    between = [sliced_w2(a, b) for i, a in enumerate(sets) for b in sets[:i]]
    return np.mean([sliced_w2(x, other) for other in sets]) < max(between)


@pytest.mark.parametrize("name", NAMES)
def test_the_flow_carries_the_source_to_the_data_and_back(name):
    path = ip.path(couplings([name])[name])
    x0, _ = draws(path, 0)
    moved = ip.transport(path, x0)
    assert within_sampling_error(path, moved.x)
    assert not within_sampling_error(path, x0)
    back = ip.transport(path, moved.x, start=1.0, end=0.0)
    assert np.quantile(np.abs(back.x - x0), 0.99) < 1e-2  # a few part ways between two components


@pytest.mark.slow
def test_the_diffusion_carries_the_source_to_the_data_and_back():
    path = ip.path(couplings(["full"])["full"])
    x0, x1 = draws(path, 0)
    assert within_sampling_error(path, ip.diffuse(jax.random.key(1), path, x0, epsilon=0.5, steps=200))
    back = ip.diffuse(jax.random.key(1), path, x1, epsilon=0.5, start=1.0, end=0.0, steps=200)
    sets = [draws(path, seed)[0] for seed in range(10, 13)]
    assert sliced_w2(back, sets[0]) < 1.5 * max(sliced_w2(a, b) for i, a in enumerate(sets) for b in sets[:i])


def test_likelihood_by_change_of_variables_is_the_closed_form(x64):
    path = ip.path(ip.couple(*ends("full"), "independent", "map"))
    _, x1, _ = ip.sample(jax.random.key(0), path, 0.0, 20)
    by_flow = ip.log_likelihood(path, x1, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_flow, ip.log_prob(path, 1.0, x1), atol=1e-6)


@pytest.mark.slow
def test_heun_is_of_second_order(x64):
    path = ip.path(ip.couple(*ends("diag"), "optimal", "map"))
    x0, _, _ = ip.sample(jax.random.key(0), path, 0.0, 20)
    exact = ip.transport(path, x0, rtol=1e-12, atol=1e-12).x
    coarse, fine = (np.abs(ip.transport(path, x0, solver="heun", steps=n).x - exact).max() for n in (32, 64))
    assert abs(np.log2(coarse / fine) - 2) < 0.5


@pytest.mark.parametrize("scheme", [pytest.param({"solver": "heun", "steps": 7}, marks=pytest.mark.slow), {}])
def test_evaluations_are_counted(scheme, monkeypatch):
    seen = []

    def watched(path, t, x):
        jax.debug.callback(lambda: seen.append(1))
        return ip.velocity(path, t, x)

    monkeypatch.setattr(solvers, "velocity", watched)
    jax.clear_caches()
    path = ip.path(ip.couple(*ends("diag")))
    moved = ip.transport(path, jnp.ones((3, D)), **scheme)
    jax.effects_barrier()
    assert len(seen) == int(moved.evaluations)
    jax.clear_caches()


def test_gaussians_with_the_optimal_map_move_straight_at_the_least_cost(x64):
    """Between two Gaussians the map's path is the geodesic: its energy is W2², and its lines are straight."""
    source, target = ends("diag", k=1)
    path = ip.path(ip.couple(source, target, "independent", "map"))
    w2 = float(ip.squared_wasserstein(source, target)[0, 0])
    energy = ip.kinetic_energy(jax.random.key(0), path, 4000)
    assert abs(energy.value - w2) < 4 * energy.error
    np.testing.assert_allclose(ip.pair_cost(path), w2, rtol=1e-9)
    assert abs(ip.straightness(jax.random.key(0), path, 200).value) < 1e-6
    independent = ip.path(ip.couple(source, target))
    assert ip.straightness(jax.random.key(0), independent, 200).value > 0.01
    assert ip.pair_cost(independent) > w2


def test_hypotheses_against_draws(x64):
    path = ip.path(ip.couple(*ends("full"), "optimal"), "cosine")
    c1, m1, m2 = ip.regularity_constants(path)
    x0, x1, _ = ip.sample(jax.random.key(0), path, 0.0, 400_000)
    fastest = np.pi / 2  # ȧ of the cosine schedule at t = 1/2, with ḃ = −ȧ
    assert abs(c1 - fastest) < 1e-9
    fourth = np.asarray(((x1 - x0) ** 2).sum(axis=1)) ** 2 * fastest**4
    second = np.asarray(((x1 - x0) ** 2).sum(axis=1)) * (np.pi**2 / 2) ** 2
    for value, values in ((m1, fourth), (m2, second)):
        assert abs(value - values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert ip.regularity_constants(ip.path(ip.couple(*ends("full")), "trigonometric")).c1 == np.inf


def test_fisher_information_of_a_gaussian_is_the_trace_of_its_precision(x64):
    covariance = ip.random_covariances(jax.random.key(0), 1, 3)
    gmm = GMM(jnp.zeros(1), jnp.ones((1, 3)), Full.from_dense(covariance))
    value, error = ip.fisher_information(jax.random.key(1), gmm, 20_000)
    assert abs(value - np.trace(np.linalg.inv(covariance[0]))) < 4 * error


def test_effective_components_and_continuity():
    path = ip.path(ip.couple(*ends("diag")))
    _, _, x = ip.sample(jax.random.key(0), path, 0.5, 100)
    count = ip.effective_components(path, 0.5, x)
    assert ((count >= 1 - 1e-5) & (count <= 4 + 1e-5)).all()
    assert jnp.abs(ip.continuity_residual(path, 0.5, x)).max() < 1e-3


@pytest.mark.slow
def test_a_learned_field_comes_close():
    path = ip.path(ip.couple(*ends("full", k=2), "independent"))
    field = learned.learn(jax.random.key(0), path, steps=400, batch_size=512, width=64, depth=2)
    errors = learned.relative_error(jax.random.key(1), path, field, jnp.array([0.1, 0.5, 0.9]), 2000)
    assert errors.max() < 0.4  # 1 untrained
    with pytest.raises(InputError, match="without smoothing"):
        learned.learn(jax.random.key(0), ip.path(ip.couple(*ends("diag")), "linear", "brownian"))


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5])
def test_a_learned_field_is_within_five_percent(k):
    path = ip.path(ip.couple(*ends("full", k=k), "independent"))
    field = learned.learn(jax.random.key(0), path)
    errors = learned.relative_error(jax.random.key(1), path, field, jnp.linspace(0, 1, 11))
    assert jnp.sqrt((errors**2).mean()) < 0.05


@pytest.mark.slow  # the notebook draws them too
def test_pictures(tmp_path):
    paths = {"independent": ip.path(ip.couple(*ends("diag"))), "map": ip.path(ip.couple(*ends("diag"), inside="map"))}
    times = (0.0, 0.5)
    figures.densities(tmp_path / "densities.png", paths, times)
    figures.velocities(tmp_path / "velocities.png", paths, times)
    figures.trajectories(tmp_path / "trajectories.png", paths, n=20)
    figures.posteriors(tmp_path / "posteriors.png", paths["map"], times)
    figures.animation(tmp_path / "path.gif", paths["map"], frames=3, n=20)
    figures.learned_error(tmp_path / "error.png", np.linspace(0, 1, 3), {"one": np.ones(3)})
    assert len(list(tmp_path.iterdir())) == 6
