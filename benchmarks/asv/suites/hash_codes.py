"""Codes of the hash families."""

from slide import hashing

from .common import vectors

FAMILIES = {
    "SimHash": lambda: hashing.SimHash(9, 20),
    "SimHash sparse": lambda: hashing.SimHash(9, 20, "sparse"),
    "SimHash hadamard": lambda: hashing.SimHash(9, 20, "hadamard"),
    "E2LSH": lambda: hashing.E2LSH(3, 20, transform=None),
    "DWTA": lambda: hashing.DWTA(3, 20),
    "WTA": lambda: hashing.WTA(3, 20),
    "MinHash": lambda: hashing.MinHash(2, 20),
    "CrossPolytope": lambda: hashing.CrossPolytope(1, 20),
    "CrossPolytope hadamard": lambda: hashing.CrossPolytope(1, 20, "hadamard"),
}


class Codes:
    params = tuple(FAMILIES)
    param_names = ("family",)

    def setup(self, name):
        self.family, self.X = FAMILIES[name](), vectors(2000, 128)

    def time_codes(self, name):
        self.family.codes(self.X, n_jobs=1)
