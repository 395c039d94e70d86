"""Families of covariances. `base.py` is the contract, and the first file to read before adding one."""
