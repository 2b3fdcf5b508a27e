"""Which weights lie on which paths: the protocol of a network, and its two kinds.

A layered network is read off a parameter tree, a traced one off a function. They know
nothing of each other, and may import numbers only.
"""
