"""`make torture`: whatever breaks around it, jgmm goes on correctly, or says in one line what is wrong.

Every part tries many faults and counts how many were survived: the right result, or one line on the standard error
with exit code 2 after which nothing is lost. The seeds are printed; `python -m torture PART --seed S` repeats one.
"""
