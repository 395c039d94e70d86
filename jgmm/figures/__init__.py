"""Pictures. Only this folder and `jgmm.interpolant.figures` import matplotlib."""
