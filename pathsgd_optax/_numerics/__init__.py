"""Numbers that never overflow, their precision, and how XLA lays out a program.

Nothing here knows of networks; it may import the vocabulary only.
"""
