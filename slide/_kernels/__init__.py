"""Compiled loops over samples, neurons and hash tables; private, and unaware of the rest."""
