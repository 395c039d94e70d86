"""Limits and separations from their definitions."""

import pytest

from jgmm.errors import InputError
from jgmm.metrics.anomaly import limits, separation


def test_limits_are_quantiles_of_the_training_data(rng):
    train = rng.normal(size=10_000)
    assert limits(train, 0.05).outside(train).mean() == pytest.approx(0.05, abs=1e-3)
    assert limits(train, 0.05, two_sided=True).outside(train).mean() == pytest.approx(0.05, abs=1e-3)
    own, others = rng.normal(size=1000), rng.normal(size=1000) + 8
    area = separation(train, own, others)
    assert area.likelihood < 0.001
    assert area.typicality > 0.99
    with pytest.raises(InputError, match="between 0 and 1"):
        limits(train, 0.0)
