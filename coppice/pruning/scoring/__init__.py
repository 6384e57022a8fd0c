"""Judging solutions: the plain scorer (`plain`), which says what is right, and the fast one (`fast`), which
says the same.

Nothing is imported here: the outer loop needs only the order of the samples (`verdict`), and numba, which the
fast scorer's kernels are compiled by, takes a second to load.
"""
