"""Which neurons of an output layer are computed for a sample.

In training, a sample's labels are always among them. A sampler adds neurons that are retrieved
(`LSH`), drawn at random (`Uniform`) or both (`Mixture`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slide import _validation as check
from slide import hashing
from slide._kernels.sampling import ActiveSet

__all__ = ["LSH", "Auto", "Frequent", "Mixture", "Sampler", "Uniform", "get", "serialize"]


class Sampler:
    """Base class of the samplers."""

    retrieves: bool = False
    """Whether tables are among it, so that predictions can use them."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config()")

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        """Return the kernel for a layer of `n_neurons` neurons of `dim` weights and biases."""
        raise NotImplementedError(f"{type(self).__name__} must define active_set()")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"

    def _arguments(self) -> dict[str, Any]:
        return self.get_config()


class LSH(Sampler):
    """Neurons that the hash tables return for the layer's input.

    Parameters
    ----------
    hash : HashFamily or str
        `slide.hashing.Clusters`, `SimHash` or `DWTA`.
    max_active : int or None
        Retrieval stops at so many neurons, the sample's labels included. None: 3% of the layer,
        but at least 64 and at most 4,096.
    min_active : int
        Random neurons of the sample's own fill the set up to so many, without any correction, as
        the published SLIDE code does; 0: none do.
    rebuild_every : int or None
        Steps (batches) until the first rebuild of the tables. A rebuild moves the neurons that
        changed since the last one. None: 50, or one per 256 neurons where that is more, so that the
        cost of rebuilds a step does not grow with the layer.
    rebuild_decay : float
        lambda: the t-th rebuild comes ``rebuild_every * exp(lambda t)`` steps after the one before
        (Chen et al., MLSys 2020, section 4.2), at least 0.
    new_functions_every : int
        Every so many rebuilds the hash functions are drawn anew and all neurons are inserted;
        0: never.

    Raises
    ------
    ValueError
        If a number is out of range, or the layer has fewer neurons than `min_active`.

    Examples
    --------
    >>> LSH(hashing.SimHash(n_bits=6, n_tables=20), max_active=1000).max_active
    1000
    """

    retrieves = True

    def __init__(
        self,
        hash: hashing.HashFamily | str = "clusters",
        max_active: int | None = None,
        min_active: int = 0,
        rebuild_every: int | None = None,
        rebuild_decay: float = 0.0,
        new_functions_every: int = 0,
    ):
        self.hash = hashing.get(hash)
        if max_active is not None:
            max_active = check.check_positive_int("max_active", max_active)
        self.max_active = max_active
        self.min_active = check.check_positive_int("min_active", min_active, low=0)
        if max_active is not None and self.min_active > max_active:
            raise ValueError(f"min_active={min_active} is more than max_active={max_active}")
        if rebuild_every is not None:
            rebuild_every = check.check_positive_int("rebuild_every", rebuild_every)
        self.rebuild_every = rebuild_every
        self.rebuild_decay = check.check_finite_float(
            "rebuild_decay", rebuild_decay, at_least=0.0, at_most=100.0
        )
        self.new_functions_every = check.check_positive_int(
            "new_functions_every", new_functions_every, low=0
        )

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return Mixture([self]).active_set(n_neurons, dim, seed, n_threads)

    def limits(self, n_neurons: int) -> tuple[int, int]:
        """Return max_active and min_active for a layer of that size."""
        most = self.max_active
        if most is None:
            most = max(self.min_active, 64, min(4096, round(0.03 * n_neurons)))
        if self.min_active > n_neurons:
            raise ValueError(f"min_active={self.min_active} on a layer of {n_neurons} neurons")
        return min(most, n_neurons), self.min_active

    def get_config(self) -> dict[str, Any]:
        return {
            "hash": hashing.serialize(self.hash),
            "max_active": self.max_active,
            "min_active": self.min_active,
            "rebuild_every": self.rebuild_every,
            "rebuild_decay": self.rebuild_decay,
            "new_functions_every": self.new_functions_every,
        }

    def _arguments(self) -> dict[str, Any]:
        return {**self.get_config(), "hash": self.hash}


class Uniform(Sampler):
    """Random neurons, drawn without replacement from those that are not frequent.

    Parameters
    ----------
    n : int or float
        So many neurons, or (a float) this fraction of the layer, in (0, 1].
    correction : {"logq", None}
        ``"logq"``: a drawn neuron stands for ``n_neurons / n`` of them. Softmax adds the negative
        log of its inclusion probability to its logit, other losses divide its term by it, so that
        the sampled sum estimates the sum over the whole layer. None: no weights.
    shared : bool
        Whether all samples of a batch have the same random neurons, or each its own. Shared neurons
        are a small dense block, read and updated once a batch, and cost a fraction. But a neuron
        then gets its whole gradient of about ``n_neurons / n`` batches at once, which adaptive
        optimizers answer with smaller steps: at equal numbers, own neurons learn faster.

    Examples
    --------
    >>> Uniform(0.05).get_config()
    {'n': 0.05, 'correction': 'logq', 'shared': True}
    """

    def __init__(self, n: int | float, correction: str | None = "logq", shared: bool = True):
        self.n = _checked_count(n)
        self.correction = (
            None if correction is None else check.check_in("correction", correction, ("logq",))
        )
        self.shared = check.check_bool("shared", shared)

    def count(self, n_neurons: int) -> int:
        """Return the number of neurons drawn from a layer of that size."""
        return _count(self, self.n, n_neurons)

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return Mixture([self]).active_set(n_neurons, dim, seed, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n, "correction": self.correction, "shared": self.shared}


class Frequent(Sampler):
    """The neurons that were labels most often so far, for every sample.

    They are the ones with the largest mean probabilities. Computed always, they need no weights,
    and what is left for a random tail to estimate is small. As a block shared by the batch they
    cost a fraction of what retrieved neurons do.

    Parameters
    ----------
    n : int or float
        So many neurons, or (a float) this fraction of the layer, in (0, 1].

    Examples
    --------
    >>> Frequent(0.01).count(5000)
    50
    """

    def __init__(self, n: int | float):
        self.n = _checked_count(n)

    def count(self, n_neurons: int) -> int:
        """Return the number of neurons of a layer of that size."""
        return _count(self, self.n, n_neurons)

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return Mixture([self]).active_set(n_neurons, dim, seed, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n}


class Mixture(Sampler):
    """Several samplers at once; the recommended sampler of a wide output layer.

    Retrieved and frequent neurons have weight 1, random ones the inverse of their inclusion
    probability. Together they estimate the loss over the whole layer without bias whatever is
    retrieved; good retrieval makes the variance small. The random tail keeps neurons that are never
    retrieved from drifting up unseen.

    Parameters
    ----------
    samplers : iterable
        At most one each of `LSH`, `Frequent` and `Uniform`, in any order.

    Examples
    --------
    >>> head = LSH(hashing.Clusters(n_cells=128), max_active=200)
    >>> Mixture([head, Frequent(200), Uniform(100)]).samplers[2]
    Uniform(n=100, correction='logq', shared=True)
    """

    def __init__(self, samplers: Iterable[Sampler]):
        if isinstance(samplers, str) or not isinstance(samplers, Iterable):
            raise TypeError(f"samplers must be a list of samplers, got {samplers!r}")
        self.samplers = [get(sampler) for sampler in samplers]
        kinds = [type(part) for part in self.samplers]
        if not kinds or len(set(kinds)) < len(kinds) or Mixture in kinds:
            raise ValueError(
                f"samplers must be at most one each of LSH, Frequent and Uniform, "
                f"got {self.samplers!r}"
            )

    @property
    def retrieves(self) -> bool:  # type: ignore[override]
        return any(part.retrieves for part in self.samplers)

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        retriever, most, least, schedule = None, 0, 0, (1.0, 0.0, 0)
        n_tail, n_own, n_frequent, corrected = 0, 0, 0, False
        for part in self.samplers:
            if isinstance(part, LSH):
                retriever = part.hash.retriever(n_neurons, dim, seed, n_threads)
                most, least = part.limits(n_neurons)
                every = part.rebuild_every or max(50, n_neurons // 256)
                schedule = float(every), part.rebuild_decay, part.new_functions_every
            elif isinstance(part, Frequent):
                n_frequent = part.count(n_neurons)
            elif isinstance(part, Uniform):
                n_tail, corrected = part.count(n_neurons), part.correction is not None
                if not part.shared:
                    n_tail, n_own = 0, n_tail
        if n_tail + n_own + n_frequent > n_neurons:
            raise ValueError(
                f"{n_frequent} frequent and {n_tail + n_own} random neurons of a layer of "
                f"{n_neurons}"
            )
        return ActiveSet(
            n_neurons,
            retriever,
            most,
            least,
            n_tail,
            n_own,
            n_frequent,
            corrected,
            schedule,
            n_threads,
        )

    def get_config(self) -> dict[str, Any]:
        return {"samplers": [serialize(part) for part in self.samplers]}

    def _arguments(self) -> dict[str, Any]:
        return {"samplers": self.samplers}


class Auto(Sampler):
    """The recommended sampler of a wide output layer, by its size.

    A `Mixture` of the labels most frequent so far (2.5% of the layer, at most 1,000), neurons
    retrieved by `slide.hashing.Clusters` and random ones of every sample's own, weighted by their
    inclusion probability (0.75% of each, at least 32 and at most 200): about 4% of a layer of
    13,000 neurons, 0.2% of one of 670,000.

    Examples
    --------
    >>> Auto().mixture(10_000).samplers[1]
    Frequent(n=250)
    """

    retrieves = True

    def mixture(self, n_neurons: int) -> Mixture:
        """Return the mixture for a layer of that size."""
        few = min(max(1, n_neurons // 4), max(32, min(200, round(0.0075 * n_neurons))))
        frequent = max(1, min(1000, round(0.025 * n_neurons)))
        if n_neurons < 4:
            return Mixture([LSH(max_active=n_neurons)])
        return Mixture([LSH(max_active=few), Frequent(frequent), Uniform(few, shared=False)])

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return self.mixture(n_neurons).active_set(n_neurons, dim, seed, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {}


def _checked_count(n: Any) -> int | float:
    return (
        check.check_fraction("n", n) if isinstance(n, float) else check.check_positive_int("n", n)
    )


def _count(sampler: Sampler, n: int | float, n_neurons: int) -> int:
    if isinstance(n, float):
        return max(1, round(n * n_neurons))
    if n > n_neurons:
        raise ValueError(f"{sampler!r} on a layer of {n_neurons} neurons")
    return n


def get(identifier: Any) -> Sampler:
    """Return a sampler from its name, itself or what `serialize` gave.

    ``"auto"`` is `Auto`.
    """
    if identifier == "auto":
        return Auto()
    return check.resolve("sampler", identifier, Sampler, (Auto, LSH, Frequent, Uniform, Mixture))


def serialize(sampler: Sampler) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal sampler."""
    return check.serialize_config(sampler)
