"""Products of block mixtures against the dense mixture of all their components, and trees of classes against sums."""

import itertools
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few

import jgmm
from jgmm import interpolant as ip
from jgmm.covariance.diag import Diag
from jgmm.covariance.full import Full
from jgmm.errors import InputError
from jgmm.mixture import GMM
from jgmm.product.labels import LabelTree, grid_parents
from jgmm.product.mixture import ProductMixture

K, SIZE = 3, 2
# Blocks under two regions, and those under the whole.
PARENTS = ((0, 0), (0, 1, 1))
KINDS = ["independent", "classes", "tree", "shared", "groups"]
REST = ["independent", "classes", "shared"]


def random_table(rng, *shape):
    return jnp.log(jnp.asarray(rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])))


def random_blocks(rng, *batch, size=SIZE):
    """Gaussians of blocks, with full covariances."""
    a = rng.normal(size=(*batch, K, size, size))
    factor = np.linalg.cholesky(a @ a.swapaxes(-1, -2) + 0.2 * np.eye(size))
    means = jnp.asarray(2 * rng.normal(size=(*batch, K, size)))
    return GMM(jnp.full((*batch, K), -jnp.log(K)), means, Full(jnp.asarray(factor)))


def random_labels(rng, kind):
    if kind == "tree":
        return LabelTree(random_table(rng, 2), (random_table(rng, 2, 2, 4), random_table(rng, 3, 4, K)), PARENTS)
    n_classes = 1 if kind == "independent" else 5
    return LabelTree(random_table(rng, n_classes), (random_table(rng, 3, n_classes, K),), ((0, 0, 0),))


def random_product(kind, seed=0):
    """Three blocks of K components: of batches, of shared ones, and of groups of one and of two features."""
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, kind)
    if kind == "groups":
        parts = random_blocks(rng, 2, size=1), random_blocks(rng, 1)
        return ProductMixture(parts, labels, (2, 1), (3, 1, 0, 2))
    return ProductMixture((random_blocks(rng, *([] if kind == "shared" else [3])),), labels, (3,))


def probability(labels, chosen):
    """p(labels), as a sum over the classes of all nodes."""
    root, tables = np.exp(labels.root), [np.exp(table) for table in labels.tables]
    nodes = [len(parents) for parents in labels.parents[:-1]]
    total = 0.0
    for s in range(len(root)):
        for inner in itertools.product(
            *(range(t.shape[2]) for t, n in zip(tables, nodes, strict=False) for _ in range(n))
        ):
            levels = [(s,), inner, chosen] if nodes else [(s,), chosen]
            of_levels = zip(tables, labels.parents, levels[:-1], levels[1:], strict=True)
            total += root[s] * prod(
                t[v, above[p], state]
                for t, parents, above, states in of_levels
                for v, (p, state) in enumerate(zip(parents, states, strict=True))
            )
    return total


def dense(product):
    """The mixture of all K^3 components."""
    every = [p for part, n in zip(product.parts, product.n_blocks, strict=True) for p in [part] * n]
    at = [b for part, n in zip(product.parts, product.n_blocks, strict=True) for b in range(n)]
    features = [f for of_part in product.features() for f in of_part]
    weights, means, covariances = [], [], []
    for chosen in itertools.product(range(K), repeat=3):
        mean, covariance = np.zeros(product.d), np.zeros((product.d, product.d))
        for part, b, f, k in zip(every, at, features, chosen, strict=True):
            index = (b, k) if part.batch_shape else k
            factor = np.asarray(part.covariance.cholesky[index])
            mean[f], covariance[np.ix_(f, f)] = part.means[index], factor @ factor.T
        weights.append(probability(product.labels, chosen))
        means.append(mean)
        covariances.append(covariance)
    return GMM.from_parameters(np.array(weights), np.array(means), np.array(covariances), "full")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_the_dense_mixture_of_all_its_components(kind):
    product = random_product(kind)
    every = dense(product)
    x = 2 * jax.random.normal(jax.random.key(0), (9, product.d))
    np.testing.assert_allclose(product.log_prob(x), every.log_prob(x), rtol=1e-12)
    for moment in ("mean", "variance", "covariance_matrix"):
        np.testing.assert_allclose(getattr(product, moment)(), getattr(every, moment)(), rtol=1e-10, atol=1e-12)
    joint = np.asarray(every.responsibilities(x)).reshape(-1, K, K, K)
    expected = np.stack([joint.sum(axis=(2, 3)), joint.sum(axis=(1, 3)), joint.sum(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(product.responsibilities(x), expected, atol=1e-10)
    slope = jax.grad(lambda x: product.log_prob(x).sum())(x)
    np.testing.assert_allclose(slope, jax.grad(lambda x: every.log_prob(x).sum())(x), atol=1e-10)
    marginal = [part for mixtures in product.block_mixtures() for part in np.exp(mixtures.log_weights)]
    weights = np.asarray(every.weights).reshape(K, K, K)
    np.testing.assert_allclose(marginal[1], weights.sum(axis=(0, 2)), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_and_the_labels_of_the_mixture(kind):
    product, n = random_product(kind), 200_000
    x, labels = product.sample(jax.random.key(1), n, return_components=True)
    covariance = np.asarray(product.covariance_matrix())
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(x.mean(axis=0) / scale, product.mean() / scale, atol=6 / np.sqrt(n))
    np.testing.assert_allclose(np.cov(x.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.02)
    index = np.ravel_multi_index(np.asarray(labels).T, (K, K, K))
    expected = np.asarray(dense(product).weights)
    np.testing.assert_allclose(np.bincount(index, minlength=K**3) / n, expected, atol=6 * np.sqrt(0.25 / n))
    # Given labels, and drawn from their posterior.
    same = product.sample(jax.random.key(2), n, component=labels[0])
    means, _ = product.given_labels(labels[:1], jnp.zeros((1, product.d)))
    np.testing.assert_allclose(same.mean(axis=0), means[0], atol=0.05)
    again = product.sample_labels(jax.random.key(3), jnp.repeat(x[:1], n, axis=0))
    found = np.bincount(np.ravel_multi_index(np.asarray(again).T, (K, K, K)), minlength=K**3) / n
    np.testing.assert_allclose(found, dense(product).responsibilities(x[0]), atol=6 * np.sqrt(0.25 / n))


@pytest.mark.usefixtures("x64")
def test_classes_and_their_entropy():
    product = random_product("tree")
    x = jax.random.normal(jax.random.key(0), (5, product.d))
    root = np.exp(product.labels.root)
    of_classes = np.stack([product.given_class(s).log_prob(x) for s in range(2)], axis=1)
    expected = root * np.exp(of_classes)
    np.testing.assert_allclose(product.class_responsibilities(x), expected / expected.sum(axis=1)[:, None], rtol=1e-10)
    states = itertools.product(range(2), itertools.product(range(4), repeat=2), itertools.product(range(K), repeat=3))
    upper, lower = (np.exp(table) for table in product.labels.tables)
    p = [
        root[s]
        * prod(upper[v, s, c] for v, c in enumerate(inner))
        * prod(lower[b, inner[PARENTS[1][b]], k] for b, k in enumerate(chosen))
        for s, inner, chosen in states
    ]
    assert float(product.labels.entropy()) == pytest.approx(-sum(q * np.log(q) for q in p), rel=1e-12)


def test_a_grid_of_classes_has_the_blocks_below_each():
    regions, blocks = grid_parents((4, 6), 2)
    assert regions == (0,) * 6
    assert blocks[:6] == blocks[6:12] == (0, 0, 1, 1, 2, 2)
    assert blocks[12:18] == (3, 3, 4, 4, 5, 5)
    with pytest.raises(InputError, match="no room for 3 levels"):
        grid_parents((4, 4), 3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("smoothing", few(["none", "brownian"], "brownian"))
@pytest.mark.parametrize("kind", few(["tree", "groups", *REST], "groups"))
def test_the_flow_is_that_between_the_dense_mixtures(kind, smoothing):
    """From N(0, I), and from another product without classes."""
    target = random_product(kind)
    normal = GMM(jnp.zeros(1), jnp.zeros((1, target.d)), Diag(jnp.ones((1, target.d))))
    other = random_product("groups" if kind == "groups" else "independent", 7)
    other = ProductMixture(
        other.parts, random_labels(np.random.default_rng(8), "independent"), other.n_blocks, other.order
    )
    x, t = 2 * jax.random.normal(jax.random.key(0), (6, target.d)), jnp.array([0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
    for source, plain in ((normal, normal), (other, dense(other))):
        for ends in ((source, target), (target, source)):
            back = ends[0] is target
            if back and kind != "tree":
                continue  # the way back is the same for all, and costs as much again
            found = ip.path(ip.couple(*ends), "trigonometric", smoothing)
            expected = ip.path(
                ip.couple(*((dense(target), plain) if back else (plain, dense(target)))), "trigonometric", smoothing
            )
            np.testing.assert_allclose(ip.log_prob(found, t, x), ip.log_prob(expected, t, x), rtol=1e-10)
            for name in ("velocity", "score", "divergence", "expected_target"):
                value, right = (getattr(ip, name)(path, t, x) for path in (found, expected))
                np.testing.assert_allclose(value, right, rtol=1e-8, atol=1e-9, err_msg=name)
            inner = (t > 0) & (t < 1)
            assert abs(ip.continuity_residual(found, t, x))[inner].max() < 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_points_are_carried_to_the_target_and_back():
    target = random_product("classes")
    normal = GMM(jnp.zeros(1), jnp.zeros((1, target.d)), Diag(jnp.ones((1, target.d))))
    path = ip.path(ip.couple(normal, target))
    x = target.sample(jax.random.key(0), 20)
    np.testing.assert_allclose(ip.log_likelihood(path, x, rtol=1e-7, atol=1e-7), target.log_prob(x), atol=1e-4)
    x0, x1, _ = ip.sample(jax.random.key(1), path, 0.5, 50_000)
    np.testing.assert_allclose(x0.std(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(x1.std(axis=0), jnp.sqrt(target.variance()), rtol=0.02)


def test_products_that_cannot_be_coupled_are_refused():
    classes, tree = random_product("classes"), random_product("tree")
    with pytest.raises(InputError, match="both ends have classes"):
        ip.couple(classes, tree)
    with pytest.raises(InputError, match="same blocks"):
        ip.couple(
            random_product("groups"),
            random_product("shared", 3)
            .given_class(0)
            .__class__.independent(random_blocks(np.random.default_rng(0), 3)),
        )
    two = jgmm.GMM.from_parameters([0.5, 0.5], np.zeros((2, 6)), np.ones((2, 6)), "diag")
    with pytest.raises(InputError, match="one Gaussian whose features are independent"):
        ip.couple(two, classes)
    with pytest.raises(InputError, match="coupled independently"):
        ip.couple(classes, classes, plan="optimal")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path):
    product = jax.tree.map(lambda a: a.astype(jnp.float32), random_product(kind))
    jgmm.save(tmp_path / "product", product)
    found = jgmm.load(tmp_path / "product")
    assert jax.tree.structure(found) == jax.tree.structure(product)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(product), strict=True))
    assert jgmm.sample(jax.random.key(0), found, 3).shape == (3, product.d)


def test_labels_that_are_impossible_and_points_that_are_far_away():
    """A weight of zero where the density is the largest, and densities beyond floating point."""
    one = GMM(jnp.log(jnp.array([[0.0, 1.0], [0.5, 0.5]])), jnp.array([[[0.0], [30.0]]] * 2), Diag(jnp.ones((2, 2, 1))))
    product = ProductMixture.independent(one)
    x = jnp.zeros((1, 2))
    np.testing.assert_allclose(product.log_prob(x), one.log_prob(x[:, :, None]).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(product.responsibilities(x)[0], [[0.0, 1.0], [1.0, 0.0]], atol=1e-6)
    far = jnp.full((1, 2), 1e20)
    np.testing.assert_allclose(product.log_prob(far), one.log_prob(far[:, :, None]).sum(axis=1), rtol=1e-6)
    shared = ProductMixture(
        (GMM(*(leaf[1] for leaf in (one.log_weights, one.means)), Diag(jnp.ones((2, 1)))),), product.labels, (2,)
    )
    assert float(shared.log_prob(far)[0]) < -1e18
    assert product.sample_labels(jax.random.key(0), x).tolist() == [[1, 0]]


def test_trees_that_are_none_are_refused():
    half = jnp.log(jnp.full((2, 1, 2), 0.5))
    for root, tables, parents, message in [
        (jnp.zeros(2), (half,), ((0, 0),), "cannot have shape"),
        (jnp.zeros(1), (half,), ((0, 0, 0),), "cannot have shape"),
        (jnp.zeros(1), (half,), ((0, 1),), "from 0 to 0"),
        (jnp.zeros(1), (half + 1,), ((0, 0),), "sum to 1"),
        (jnp.log(jnp.full(1, 0.5)), (half,), ((0, 0),), "sum to 1"),
        (jnp.zeros(1), (), (), "a table and parents"),
    ]:
        with pytest.raises(InputError, match=message):
            LabelTree(root, tables, parents)


def test_a_product_is_data_to_jit_and_vmap():
    product = random_product("tree")
    x = jnp.zeros((2, product.d))
    assert jax.jit(lambda p, x: p.log_prob(x))(product, x).shape == (2,)
    gradient = jax.grad(lambda p: p.log_prob(x).sum())(product)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    with pytest.raises(InputError, match=r"points of shape \(n, 6\)"):
        product.log_prob(jnp.zeros((2, 5)))
    with pytest.raises(InputError, match="component must be labels"):
        product.sample(jax.random.key(0), 2, component=jnp.zeros(5, jnp.int32))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", few(["tree", "groups", *REST], "groups"))
def test_features_given_others_are_those_of_the_dense_mixture(kind):
    """A block is known, and part of another."""
    product = random_product(kind)
    every = dense(product)
    given, wanted = ([2, 3], [1, 0]) if kind == "groups" else ([2, 3, 0], [4, 1])
    values = jax.random.normal(jax.random.key(0), (4, len(given)))
    x = 2 * jax.random.normal(jax.random.key(1), (6, len(wanted)))
    np.testing.assert_allclose(product.marginal(wanted).log_prob(x), every.marginal(wanted).log_prob(x), rtol=1e-10)
    rest = product.conditional(wanted, given, values[0])
    of_all = every.conditional(wanted, given, values[0])
    np.testing.assert_allclose(rest.log_prob(x), of_all.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(rest.covariance_matrix(), of_all.covariance_matrix(), atol=1e-10)
    # For many rows, and all the features that are left.
    means = jax.vmap(lambda v: product.conditional(None, given, v).mean())(values)
    np.testing.assert_allclose(means, every.conditional(None, given, values).mean(), atol=1e-10)
    # Classes from some of the features, by Bayes' rule.
    of_classes = [product.given_class(s).marginal(given).log_prob(values) for s in range(product.labels.n_classes)]
    expected = jax.nn.softmax(product.labels.root[None] + jnp.stack(of_classes, axis=1), axis=1)
    np.testing.assert_allclose(product.marginal(given).class_responsibilities(values), expected, atol=1e-10)


def test_gaussians_that_blocks_share_stay_shared_where_nothing_tells_them_apart():
    product = random_product("shared")
    assert product.marginal([0, 2, 4]).parts[0].batch_shape == ()
    assert product.marginal([0, 3, 4]).parts[0].batch_shape == (3,)
    rest = product.conditional(None, [0, 1], np.zeros(2))
    assert [part.batch_shape for part in rest.parts] == [()]
    assert rest.labels.n_blocks == 2


def test_labels_without_probability_stay_so_when_something_is_known():
    product = random_product("classes")
    root = jnp.log(jnp.array([0.0, 0.5, 0.5, 0.0, 0.0]))
    table = product.labels.tables[0].at[0, 1].set(jnp.log(jnp.array([1.0, 0.0, 0.0])))
    labels = LabelTree(root, (table,), product.labels.parents)
    rest = ProductMixture(product.parts, labels, product.n_blocks).conditional(None, [0], np.zeros(1))
    np.testing.assert_allclose(jnp.exp(rest.labels.root)[jnp.array([0, 3, 4])], 0)
    np.testing.assert_allclose(jnp.exp(rest.labels.tables[0][0, 1]), [1, 0, 0])
    assert bool(jnp.isfinite(rest.log_prob(np.zeros((2, 5)))).all())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.conditional([0, 1], [1], [0.0]), "both name"),
        (lambda p: p.conditional(None, range(6), np.zeros(6)), "names every feature"),
        (lambda p: p.conditional([0], [1], [0.0, 1.0]), "values must have shape"),
        (lambda p: p.conditional([0], [7], [0.0]), "from 0 to 5"),
        (lambda p: p.marginal([0, 0]), "named twice"),
        (lambda p: jax.jit(lambda i: p.marginal(i).mean())(jnp.array([0])), "do not trace"),
    ],
)
def test_features_that_cannot_be_given_are_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(random_product("classes"))
