"""Models on disk: saving and loading of every kind, and the state of an interrupted fit.

A saved model is a folder with arrays in params/ (orbax) and a readable config.json, which is written last, in one step:
a folder without it is not whole. `progress/` holds an interrupted fit (`jgmm.checkpoint.interrupted`).
"""
