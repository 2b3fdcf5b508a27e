"""Pictures of a network's paths, and the numbers that they show.

Matplotlib is imported where a picture is drawn, and nowhere else in the package. They
may import all other rooms but that of the optimizers.
"""
