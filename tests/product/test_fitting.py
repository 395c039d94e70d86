"""Fits of products: against mixtures fitted block by block, planted classes, and what EM promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import jgmm
from jgmm.errors import InputError
from jgmm.product.fitting import with_labels
from jgmm.product.labels import grid_parents


def planted(rng, n=3000):
    """Four blocks of two features, whose labels depend on one of two classes."""
    classes = rng.integers(0, 2, n)
    likely = np.array([[0.9, 0.1], [0.15, 0.85]])
    labels = (rng.random((n, 4)) < likely[classes, 1][:, None]).astype(int)
    centers = np.array([[-4.0, 0.0], [4.0, 1.0]])
    return (centers[labels] + rng.normal(size=(n, 4, 2))).reshape(n, 8), classes, labels


def test_without_classes_it_is_a_mixture_in_every_block(rng):
    x, _, _ = planted(rng)
    fit = jgmm.fit_product(0, x, k=2, blocks=[[0, 1], [2, 3, 4], [5, 6, 7]], covariance_type="full")
    expected = sum(
        found.gmm.log_prob(x[:, group]) for found, group in zip(fit.fits, ([0, 1], [2, 3, 4], [5, 6, 7]), strict=True)
    )
    np.testing.assert_allclose(fit.mixture.log_prob(x), expected, rtol=1e-5)
    assert fit.history == [pytest.approx(float(expected.mean()), rel=1e-5)]
    assert repr(fit).startswith("ProductFit(ProductMixture(k=2, blocks=3, classes=1, d=8")


@pytest.mark.parametrize("shared", [False, True])
def test_planted_classes_are_found(shared, rng):
    x, classes, labels = planted(rng)
    fit = jgmm.fit_product(0, x, k=2, blocks=2, shared=shared, classes=2)
    assert adjusted_rand_score(np.asarray(fit.mixture.class_responsibilities(x).argmax(axis=1)), classes) > 0.7
    found = np.asarray(fit.mixture.responsibilities(x).argmax(axis=2))
    assert all(adjusted_rand_score(found[:, b], labels[:, b]) > 0.95 for b in range(4))
    np.testing.assert_allclose(np.sort(np.exp(fit.mixture.labels.root)), [0.5, 0.5], atol=0.05)
    without = jgmm.fit_product(0, x, k=2, blocks=2, shared=shared)
    fresh, _, _ = planted(rng)
    assert fit.mixture.log_prob(fresh).mean() > without.mixture.log_prob(fresh).mean() + 0.3


def test_em_on_labels_never_lowers_the_likelihood(rng):
    x, _, _ = planted(rng)
    start = jgmm.fit_product(0, x, k=2, blocks=2).mixture
    x = jnp.asarray(x, jnp.float32)
    parents = grid_parents((2, 2), 1)
    seen = []
    mixture, history = with_labels(
        jax.random.key(0),
        start,
        x,
        (3,),
        parents,
        strength=0.0,
        tol=0.0,
        max_iter=30,
        callback=lambda i, v: seen.append(v),
    )
    assert seen == history
    assert len(history) == 30
    assert np.diff(history).min() > -1e-2  # one transition more is spread over all
    assert float(mixture.log_prob(x).mean()) >= history[-1] - 1e-2


def test_a_tree_of_classes_on_a_grid(rng):
    quarters = rng.integers(0, 2, (2000, 2, 2))
    scale = np.exp(1.5 * quarters.repeat(2, axis=1).repeat(2, axis=2))
    x = (rng.normal(size=(2000, 4, 4, 3)) * scale[..., None]).reshape(2000, 48)
    options = {"k": 2, "blocks": 3, "shared": True, "covariance_type": "spherical", "encoder": "identity"}
    flat = jgmm.fit_product(0, x, **options)
    tree = jgmm.fit_product(0, x, classes=(2, 2), grid=(4, 4), **options)
    assert tree.mixture.labels.parents == grid_parents((4, 4), 2)
    assert tree.history[-1] > flat.history[-1] + 5
    np.testing.assert_allclose(tree.mixture.log_prob(x).mean(), tree.history[-1], atol=0.5)


def test_bad_input_is_refused(rng):
    x = rng.normal(size=(50, 6))
    for options, message in [
        ({"blocks": 4}, "blocks of 4 features do not make up 6"),
        ({"blocks": [[0, 1], [2, 3]]}, "must name each of 6 features once"),
        ({"blocks": [[0, 1, 2], [2, 3, 4, 5]]}, "must name each of 6 features once"),
        ({"blocks": "a"}, "must name each of 6 features once"),
        ({"blocks": 2, "classes": 0}, "classes"),
        ({"blocks": 2, "classes": "many"}, "classes must be"),
        ({"blocks": 2, "classes": 2, "grid": (2, 2)}, "sides of 3 blocks"),
        ({"blocks": 2, "classes": (2, 2), "grid": (1, 3), "k": 60}, "too few"),
        ({"blocks": 2, "start": None}, "leave start out"),
        ({"blocks": 2, "sample_weight": [1.0] * 60}, "leave them out"),
    ]:
        with pytest.raises(InputError, match=message):
            jgmm.fit_product(0, x, **({"k": 2} | options))
