"""The experiments of the paper, run with the public package only."""
