"""Mixtures that are products of block mixtures, with hidden classes above the blocks."""
