"""Encoders: affine maps between what the data are (x) and what a mixture models, or a flow runs in (z)."""
