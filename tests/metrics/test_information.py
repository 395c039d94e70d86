"""Information criteria against scikit-learn's."""

import pytest
from helpers import fit_by_sklearn, random_mixture

from jgmm.metrics.information import aic, bic


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_criteria_are_those_of_scikit_learn(family, rng):
    start = random_mixture(rng, family)
    x = rng.normal(size=(80, 4)) * 2
    theirs = fit_by_sklearn(start, family, x, 3)
    total, p = theirs.score(x) * 80, start.n_parameters
    assert bic(total, p, 80) == pytest.approx(theirs.bic(x), rel=1e-12)
    assert aic(total, p) == pytest.approx(theirs.aic(x), rel=1e-12)
