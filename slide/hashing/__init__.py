"""Hash families: how neurons come into tables and queries find them.

Every family hashes a neuron's weights with its bias, ``[w, b]``, against a layer's input with a
one, ``[x, 1]``, so that what is near is what has a large activation ``w . x + b``.
"""

from __future__ import annotations

from typing import Any

from slide import _validation as check
from slide.hashing._family import HashFamily
from slide.hashing.clusters import Clusters
from slide.hashing.crosspolytope import CrossPolytope
from slide.hashing.inclusion import retrieval_probability
from slide.hashing.index import Index, NotFittedError
from slide.hashing.learned import Learned
from slide.hashing.minhash import MinHash
from slide.hashing.projections import E2LSH, SimHash
from slide.hashing.sketches import Sketches
from slide.hashing.transforms import Transformed
from slide.hashing.winners import DWTA, WTA

__all__ = [
    "DWTA",
    "E2LSH",
    "WTA",
    "Clusters",
    "CrossPolytope",
    "HashFamily",
    "Index",
    "Learned",
    "MinHash",
    "NotFittedError",
    "SimHash",
    "Sketches",
    "Transformed",
    "get",
    "retrieval_probability",
    "serialize",
]

FAMILIES = (
    SimHash,
    WTA,
    DWTA,
    MinHash,
    E2LSH,
    CrossPolytope,
    Clusters,
    Sketches,
    Transformed,
    Learned,
)


def get(identifier: Any) -> HashFamily:
    """Return a hash family from its name, itself or what `serialize` gave."""
    return check.resolve("hash", identifier, HashFamily, FAMILIES)


def serialize(family: HashFamily) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal family."""
    return check.serialize_config(family)
