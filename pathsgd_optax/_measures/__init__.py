"""What is asked of weights: path norms and scalings, rescalings of units, the loss.

Networks and numbers lie below; no optimizer is known here.
"""
