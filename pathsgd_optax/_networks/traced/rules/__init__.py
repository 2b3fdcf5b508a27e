"""What each of JAX's operations does to paths, a module for each kind of operation.

A rule gets operands and gives results; masses it combines by what `Context` offers,
which records their slopes. The registry finds the rule of an equation.
"""
