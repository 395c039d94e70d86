"""EM in NumPy and float64, for tables so small that compiling a program would take longer than the fit."""
