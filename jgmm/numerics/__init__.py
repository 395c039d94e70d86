"""Arithmetic that the rest stands on: pytrees, matrix products, chunks of rows, distances, compensated sums."""
