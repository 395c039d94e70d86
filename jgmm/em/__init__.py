"""Expectation-maximization: the passes over the data, the two steps, the loop, and where it starts."""
