"""What goes into `optax.chain`: optimizers, transformations, and the state they keep.

They know a network by the members of `PathNetwork` only, so that none depends on how
its paths were found. They may import all other rooms.
"""
