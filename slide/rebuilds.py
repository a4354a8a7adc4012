"""When hash tables are brought up to the weights that training changes.

`slide.sampling.LSH` builds its tables once and then has one of three schedules:

=========== ============================== =========================================================
schedule    every ``rebuild_every`` steps  what is done
=========== ============================== =========================================================
`Fixed`     a rebuild                      neurons that changed move to their new buckets; with a
                                           decay ever less often
`Drift`     a look                         the same, once enough codes have changed
`Rolling`   all tables are new             a small share of the work in every step
=========== ============================== =========================================================

A model goes on from a file as if it had not stopped, in the middle of a round as well.
"""

from __future__ import annotations

from typing import Any

from slide import _validation as check

__all__ = ["Drift", "Fixed", "Rolling", "Schedule", "get", "serialize"]

LONGEST = 1 << 30
"""Steps of a table's renewal: times the neurons of a layer a number that kernels can hold."""


class Schedule:
    """Base class of the schedules."""

    redraws: bool = True
    """Whether ``new_functions_every`` has a meaning."""
    decays: bool = False
    """Whether ``rebuild_decay`` has one."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        return {}

    def numbers(self, every: int, n_tables: int) -> tuple[int, float, int]:
        """Return the kernel's panel size, threshold and steps of a table's renewal."""
        return 0, 0.0, 0

    def attach(self, retriever: Any, family: Any, dim: int, seed: int) -> None:
        """Make the kernel of a layer's tables ready.

        Raises
        ------
        ValueError
            If the family's tables cannot have the schedule.
        """

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Fixed(Schedule):
    """Rebuilds after numbers of steps that are known beforehand.

    Notes
    -----
    Rebuild t + 1 comes ``rebuild_every * exp(rebuild_decay * t)`` steps after rebuild t, so that t
    of them take ``sum_{i<t} rebuild_every * exp(rebuild_decay * i)`` steps (Chen et al., MLSys
    2020, section 4.2).

    Examples
    --------
    >>> Fixed()
    Fixed()
    """

    decays = True


class Drift(Schedule):
    """Rebuilds when enough codes have changed.

    Every rebuild draws a panel of neurons and notes their codes. Every ``rebuild_every`` steps
    codes of the panel's changed neurons are computed anew, and a rebuild runs if the estimated
    share of all codes, neurons times tables, that are other ones than at the last rebuild is above
    the threshold.

    Parameters
    ----------
    threshold : float
        Share of the codes, in [0, 1). 0: any change that the panel shows.
    n_sampled : int
        Neurons of the panel; with as many as the layer has, the share is exact.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.

    Notes
    -----
    MONGOOSE (Chen et al., ICLR 2021, section 3.1) rebuilds when the codes of the weights have moved
    by more than a threshold, summed over all neurons. A panel of m neurons makes the look cost m
    hashes; where a share p of the codes has changed, the estimate's standard deviation is at most
    ``sqrt(p (1 - p) / m)``, with the default threshold and panel 1.4 points.

    Examples
    --------
    >>> Drift(threshold=0.1)
    Drift(threshold=0.1, n_sampled=256)
    """

    def __init__(self, threshold: float = 0.05, n_sampled: int = 256):
        self.threshold = check.check_finite_float("threshold", threshold, at_least=0.0)
        if self.threshold >= 1:
            raise ValueError(f"threshold must be less than 1, got {threshold}")
        self.n_sampled = check.check_positive_int("n_sampled", n_sampled, high=2**31 - 1)

    def attach(self, retriever: Any, family: Any, dim: int, seed: int) -> None:
        if not family.drifts:
            raise ValueError(
                f"schedule='drift' with {family!r}: it has no codes whose changes could be counted"
            )

    def get_config(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "n_sampled": self.n_sampled}

    def numbers(self, every: int, n_tables: int) -> tuple[int, float, int]:
        return self.n_sampled, self.threshold, 0


class Rolling(Schedule):
    """Renews one table after the other, a little in every step.

    All tables are renewed once in ``rebuild_every`` steps, rounded up to a multiple of their
    number; the last step of a table's renewal takes longest, for it sorts the neurons into the
    table. For families of codes (`slide.hashing.SimHash` with one probe and no transform, `WTA`,
    `DWTA`, `MinHash`, `CrossPolytope`) a renewed table has new functions, and queries use the old
    ones until it is complete. For `Clusters` a renewal is one iteration of k-means: half of
    the steps assign the neurons to the nearest cells, the other half go over the cells, whose
    centroids and means follow (mini-batch k-means, Sculley, WWW 2010, with whole passes for
    batches). Other families, and hidden layers with `SimHash` or `E2LSH`, are refused with a
    `ValueError`.

    Notes
    -----
    A table holds a neuron's weights as they were when its turn in the renewal came. What changes
    afterwards has to wait for the next round: a table's entries become as old as a round and a
    table's renewal together. There are no rebuilds of changed neurons in between.

    Examples
    --------
    >>> Rolling().numbers(every=2600, n_tables=50)
    (0, 0.0, 52)
    """

    redraws = False

    def numbers(self, every: int, n_tables: int) -> tuple[int, float, int]:
        return 0, 0.0, min(-(-every // n_tables), LONGEST)

    def attach(self, retriever: Any, family: Any, dim: int, seed: int) -> None:
        if hasattr(retriever, "start_rolling"):
            try:
                retriever.start_rolling(family._kernel(dim, seed))
            except ValueError as error:
                raise ValueError(f"schedule='rolling' with {family!r}: {error}") from error
        if not retriever.roll_units:
            raise ValueError(
                f"schedule='rolling' with {family!r}: what it keeps of the neurons cannot be "
                f"renewed one table after the other"
            )


def get(identifier: Any) -> Schedule:
    """Return a schedule from its name, itself or what `serialize` gave."""
    return check.resolve("schedule", identifier, Schedule, (Fixed, Drift, Rolling))


def serialize(schedule: Schedule) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal schedule."""
    return check.serialize_config(schedule)
