"""Each hot path, ours beside the naive way and beside the limit, in one run and with equal results.

Figures are ratios of medians: machines are noisy and differ. `make bench` runs all, `trading bench NAME` one.
"""
