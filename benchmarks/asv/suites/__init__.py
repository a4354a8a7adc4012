"""Small timings of every kernel, for asv: what gets slower from commit to commit.

Sizes are such that a call takes milliseconds and the whole suite a few minutes.
"""
