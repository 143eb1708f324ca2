"""Grids of runs: what they are, which are still to do, and doing them."""
