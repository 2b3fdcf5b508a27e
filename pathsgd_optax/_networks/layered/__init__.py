"""Fully connected networks, read off their parameter trees.

From below: sums over a kernel, names and orientations, the order of layers, runs of
equal ones, and Algorithm 1 of the paper. What a tree leaves open is refused.
"""
