"""With which probability neurons are retrieved, over draws of the hash functions.

One function of a family agrees on a neuron and a query with its `collision_probability` p; all K of
a table do with ``s = p^K``; and the number of the L tables in which they do is binomial.

=============================================== =================================================
a neuron is retrieved if it is                  with probability
=============================================== =================================================
in a bucket of any table                        ``1 - (1 - s)^L``
in a bucket of tau tables, chosen at random     ``1 - (1 - s)^tau``
in at least m of the L buckets                  ``sum_(i >= m) C(L, i) s^i (1 - s)^(L - i)``
=============================================== =================================================

The formula printed for the second in Chen et al. (MLSys 2020, section 3.2),
``s^tau (1 - s)^(L - tau)``, is not an inclusion probability. The top k by the number of collisions
have no formula: the count that it takes depends on the others. Given that count it is m.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels.inclusion import Inclusion

FLOOR = 1e-6
"""No probability below is used: who is found with less is there by rounding or by old codes."""

POINTS = 4097
"""Values of a table of probabilities, between which their logs are interpolated."""


def retrieval_probability(
    collision: Any, n_functions: int, n_tables: int, min_count: int = 1
) -> np.ndarray:
    """Return the probability that a vector is in enough of the query's buckets.

    Parameters
    ----------
    collision : array-like
        Probability that one function agrees on both, in [0, 1]: a family's
        `collision_probability`.
    n_functions : int
        K, the functions of a table.
    n_tables : int
        L, the tables that are looked into.
    min_count : int
        In so many of their buckets the vector must be, 1 to `n_tables`.

    Returns
    -------
    ndarray of float64
        Of the shape of `collision`.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> print(retrieval_probability(0.5, n_functions=1, n_tables=2))
    0.75
    >>> print(retrieval_probability([0.5, 1.0], n_functions=1, n_tables=3, min_count=2))
    [0.5 1. ]
    """
    p = np.asarray(collision, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"collision must be probabilities in [0, 1], got {collision!r}")
    n_functions = check.check_positive_int("n_functions", n_functions)
    n_tables = check.check_positive_int("n_tables", n_tables)
    min_count = check.check_positive_int("min_count", min_count, high=n_tables)
    return at_least(p**n_functions, n_tables, min_count)


def at_least(s: np.ndarray, n_tables: int, min_count: int) -> np.ndarray:
    """Return the binomial tail P(B >= min_count), B of n_tables trials of probability s."""
    from scipy.special import betainc  # here: `import slide` would wait for it

    if min_count == 1:  # without cancellation where s is small
        with np.errstate(divide="ignore"):
            return -np.expm1(n_tables * np.log1p(-s))
    return betainc(min_count, n_tables - min_count + 1, s)


def inclusion_of(
    family: Any,
    collision: Callable[[np.ndarray], np.ndarray],
    width: float,
    terms: tuple[int, float],
    retriever: Any,
    n_neurons: int,
    n_threads: int,
) -> Inclusion:
    """Return the kernel that gives the probabilities of the union of a family's buckets.

    collision : of one function, at cosines or, with a `width`, at distances
    terms : m and U of the family's transform
    """
    tables = retriever.tables
    at = np.linspace(0, 1, POINTS)
    if width:
        with np.errstate(divide="ignore"):
            p = collision(width / at - width)
    else:
        p = collision(np.cos(np.pi * at))
    # Codes of more bits than a table tells apart meet strangers.
    n_bits = int(tables.n_slots).bit_length() - 1 + 8
    strays = 2.0**-n_bits if tables.code_bits > n_bits else 0.0
    n_functions = getattr(family, "n_bits", None) or family.n_functions
    same = np.clip(p, 0, 1) ** n_functions
    pi = at_least(same + (1 - same) * strays, family.n_tables, 1)
    scale = retriever.arrays.get("scale")
    transform = getattr(family, "transform", None)
    log_pi = np.log(np.clip(pi, FLOOR, 1))
    return Inclusion(log_pi, width, transform, *terms, scale, n_neurons, n_threads)
