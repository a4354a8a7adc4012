"""Which neurons of a layer are computed for a sample: its active set.

In an output layer's training, a sample's labels are always among them. A sampler adds neurons that
are retrieved (`LSH`), drawn at random (`Uniform`) or both (`Mixture`), and predictions compute all
neurons unless they are asked not to.

In a hidden layer a neuron outside of the active set has activation 0 and gradient 0. The layers
above then have a sparse input, and only weights between active neurons are computed and updated.
The five methods that Spring & Shrivastava (KDD 2017) compare are one argument apart:

=================================== ================ ===========================================
``Dense(..., sampler=...)``         in the paper     active set
=================================== ================ ===========================================
``None``                            NN               all neurons
``Uniform(0.05)``                   VD               random; predictions compute all neurons
``Standout(0.05)``                  AD               random by activation; predictions expect it
``WinnerTakeAll(0.05)``             WTA              the largest of all activations
``LSH(hash, 0.05)``                 LSH              the largest of those the tables return
=================================== ================ ===========================================

with ``hash = SimHash(6, 5, transform="sign_alsh", n_probes=10)``, the paper's own.

Standout and winner-take-all compute every activation before they choose: they save work in the
layers above and in the update, but not in their own forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from slide import _validation as check
from slide import hashing, rebuilds
from slide._kernels import selection as _selection
from slide._kernels.sampling import ActiveSet
from slide._memory import check_memory

if TYPE_CHECKING:
    from slide.tuning import Choice

__all__ = [
    "LSH",
    "Auto",
    "Frequent",
    "LifetimeSparsity",
    "Mixture",
    "Sampler",
    "Standout",
    "Uniform",
    "Unigram",
    "WinnerTakeAll",
    "get",
    "serialize",
]


DRAWN = 2048
"""A draw by activation has 65,536 values to compare with: of so many neurons for each drawn one the
probabilities are multiples of a 32nd of what each has in the mean."""

STRATEGIES = ("vanilla", "union", "top_k", "threshold")


class Sampler:
    """Base class of the samplers."""

    retrieves: bool = False
    """Whether tables are among it, so that predictions can use them."""
    for_output: bool = True
    """Whether an output layer can have it."""
    for_hidden: bool = False
    """Whether a hidden layer can have it."""
    needs_batch: bool = False
    """Whether it looks at a whole batch, so that ``update="hogwild"`` cannot have it."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config()")

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        """Return the kernel for an output layer of `n_neurons` neurons of `dim` weights and
        biases."""
        raise ValueError(f"{self!r} is a sampler of hidden layers")

    def selector(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        """Return the kernel for a hidden layer of that size."""
        raise ValueError(f"{self!r} is a sampler of output layers")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"

    def _arguments(self) -> dict[str, Any]:
        return self.get_config()


class LSH(Sampler):
    """Neurons that the hash tables return for the layer's input.

    In a hidden layer (Spring & Shrivastava, KDD 2017), tables return candidates, whose activations
    are computed; the `max_active` largest of them are the active set. Training and predictions do
    the same, and with the default schedule tables hold the weights as they are: after every step
    the neurons that it changed are moved to their new buckets.

    Parameters
    ----------
    hash : HashFamily, str or None
        One of `slide.hashing`, or its name. None: `slide.hashing.Clusters`; but an output layer
        whose `LSH` is in no `Mixture` and has no other argument than `max_active` chooses its
        family in `Sequential.fit`, see Notes.
    max_active : int, float or None
        Most active neurons, or (a float) this fraction of the layer, in (0, 1]. In an output layer
        retrieval stops there, the sample's labels included. None: 3% of an output layer, but at
        least 64 and at most 4,096; 5% of a hidden layer.
    min_active : int
        Random neurons of the sample's own fill the set up to so many, without any correction, as
        the published SLIDE code does; 0: none do. In a hidden layer they are ranked like the
        others.
    rebuild_every : int or None
        Steps (batches) until the first rebuild of the tables. A rebuild moves the neurons that
        changed since the last one. Of other schedules: steps from look to look
        (`slide.rebuilds.Drift`), or in which all tables are renewed (`Rolling`). None: 1 in hidden
        layers for the families that keep their projections (SimHash, E2LSH); else 50, or one per
        1,024 neurons where that is more, so that the cost of rebuilds a step does not grow with
        the layer.
    rebuild_decay : float
        lambda: the t-th rebuild comes ``rebuild_every * exp(lambda t)`` steps after the one before
        (Chen et al., MLSys 2020, section 4.2), at least 0.
    new_functions_every : int
        Every so many rebuilds the hash functions are drawn anew and all neurons are inserted;
        0: never.
    schedule : slide.rebuilds.Schedule or {"fixed", "drift", "rolling"}
        What comes every `rebuild_every` steps: a rebuild, a look whether codes have drifted so far
        that a rebuild is due, or new tables, one after the other with a little work in every step.
    candidates : int, float or None
        Retrieval stops at so many neurons, or (a float) at so many times `max_active`, at least 1;
        their activations are computed, and the `max_active` largest are active. None: twice
        `max_active` in a hidden layer; in an output layer `max_active` are retrieved and none is
        ranked.
    scale : float
        Of a hidden layer: kept activations are multiplied by it.
    correction : {None, "logq"}
        Of an output layer. ``"logq"``: a retrieved neuron that is no label is weighted by the
        inverse of its inclusion probability, the probability of being retrieved over draws of the
        hash functions (`slide.hashing.retrieval_probability` at its angle to the input). Softmax
        subtracts the log of it from the logit, other losses divide their term by it. Of
        `SimHash`, `E2LSH` and `CrossPolytope` with one probe, without `min_active`, other
        strategies, ranked candidates or bounded buckets, and without a random tail, which corrects
        for what is not retrieved by itself. Of `Sketches`: neurons are drawn by their activations.
    strategy : {"vanilla", "union", "top_k", "threshold"}
        Which neurons of the query's L buckets are taken (Chen et al., MLSys 2020, section 3.1.2).
        ``"vanilla"``: bucket by bucket, tables in random order, until there are enough.
        ``"union"``: all; a random part of them where they are too many. ``"top_k"``: those that
        are in most of the buckets. ``"threshold"``: those in at least `min_collisions` buckets.
        All but the first are for families of codes, not for `slide.hashing.Clusters` and
        `slide.hashing.Sketches`, which rank what they find.
    min_collisions : int or None
        Of the threshold, 1 to L. None: 2, as in MagicPIG (Chen et al., 2024).
    query : {"input", "label"}
        What an output layer's tables are asked for while training. ``"label"``: the weights of the
        sample's labels, one after the other, each for an equal share of the room (Daghaghi et al.,
        "A Tale of Two Efficient and Informative Negative Sampling Distributions", ICML 2021); what
        competes with a label is near it. Predictions, and samples without labels, ask for the
        input. `candidates` are ranked by the input either way.
    bucket_size : int or None
        Most neurons of a bucket that queries see; families of codes only. None: all.
    overflow : {"reservoir", "fifo", None}
        Which of a bucket's neurons those are: any, all equally likely, or the last ones that were
        inserted (those of one rebuild in random order). All are stored, and come into view when
        others leave. None: ``"reservoir"``.
    choice : slide.tuning.Choice, its ``to_dict()`` or None
        What `Sequential.fit` chose: it gives the layer a new `LSH` with it, and files keep it.

    Attributes
    ----------
    hash : HashFamily
        The one that is used: the one given, chosen, or until then `slide.hashing.Clusters`.
    chooses : bool
        Whether an output layer's family is chosen in `Sequential.fit`.

    Raises
    ------
    ValueError
        If a number is out of range, the schedule has no use for `rebuild_decay` (only the fixed
        one has) or `new_functions_every` (all but the rolling one), the strategy has none for
        `min_collisions`, inclusion probabilities are not known, the layer has fewer neurons than
        `min_active`, or there is a choice though more than `max_active` is given.

    Notes
    -----
    **Choosing.** ``LSH()`` and ``LSH(max_active=...)`` of an output layer are what
    `slide.tuning.choose` recommends with a family: `Sketches` that draw (of up to 32,768 neurons,
    and up to 2,048 for each of `max_active`), or one half of `max_active` retrieved and the other
    drawn at random. For an epoch the family is `Clusters`, since untrained weights tell little.
    Then `Sequential.fit` compares those of
    `slide.tuning.candidates`, which are made for the layer's size and what is retrieved of
    `max_active`, on the weights as they are and 256 of the rows just trained, and takes the one
    that finds 90% of the ten largest activations (of half of `max_active`, where that is less) in
    the least time, or else the one that finds most. A family is measured with as many neurons as it
    will retrieve; sketches that draw by what predictions retrieve with them. After each later epoch
    its recall is measured again; if that fell below 90%, or by 10 points where no family had them,
    all are compared, and one that finds at least a point more takes its place. Rebuilds come as by
    default: for sketches on WordNet every 25, 50 or 100 steps made no difference.

    A comparison may take half as long as the training of the epoch before it, or a second where
    that is more. All activations are computed and one family is measured in any case; another is
    only if there is time for one that takes as long as the slowest so far. Those that find most in
    trained layers come first, and the choice says what was left out. As long as nothing finds 90%,
    families that were never measured have their turn after the next epochs.

    Print ``model.layers[-1].sampler.choice`` for what was measured, and why; its `sampler` is the
    same sampler without further choices. With 13,043 neurons and one thread a comparison of all
    families took 0.6 s, a quarter of an epoch, and the look after other epochs 0.04 s; with 300,000
    neurons all families take 8 s, one, like the look, 1.8 s: still more than an epoch, if that has
    few samples. The history has the time as ``"time_choice"``. As measured times decide, two runs
    with the same seed can choose differently, and among different families.
    `Sequential.partial_fit` and `Sequential.train_on_batch` do not choose, and neither does a fit
    with a `slide.callbacks.ChooseSampler`. Of an iterable of batches, the last 256 rows are looked
    at, of which copies are kept, and random ones of larger batches.

    **Correction.** With ``correction="logq"``, all buckets of the query are read, and of more than
    `max_active` neurons in them so many are kept at random. The weighted sum over the sample is
    then an unbiased estimate of the sum over the layer (Horvitz & Thompson, JASA 1952), for tables
    that hold the present weights, over draws of the functions: functions that stay the same err in
    the same way for the same inputs, so draw new ones now and then (`new_functions_every`,
    ``"rolling"``). Its variance is large where a large activation has a small probability: a
    `Mixture` with a random tail, or `slide.hashing.Sketches`, which draw all neurons by their
    activations, is the better choice in most cases. Probabilities of the strategies:
    `slide.hashing.retrieval_probability`.

    Examples
    --------
    >>> LSH(hashing.SimHash(n_bits=6, n_tables=20), max_active=1000).max_active
    1000
    >>> LSH(max_active=0.02).chooses
    True
    >>> LSH(hashing.SimHash(6, 5, transform="sign_alsh", n_probes=10), max_active=0.05).candidates
    >>> LSH(hashing.DWTA(4, 50), 200, strategy="top_k", bucket_size=128, candidates=4.0).query
    'input'
    """

    retrieves = True
    for_hidden = True

    def __init__(
        self,
        hash: hashing.HashFamily | str | None = None,
        max_active: int | float | None = None,
        min_active: int = 0,
        rebuild_every: int | None = None,
        rebuild_decay: float = 0.0,
        new_functions_every: int = 0,
        candidates: int | float | None = None,
        scale: float = 1.0,
        schedule: rebuilds.Schedule | str = "fixed",
        correction: str | None = None,
        strategy: str = "vanilla",
        min_collisions: int | None = None,
        query: str = "input",
        bucket_size: int | None = None,
        overflow: str | None = None,
        choice: Choice | dict[str, Any] | None = None,
    ):
        self._given = hash is not None
        self.hash = hashing.get("clusters" if hash is None else hash)
        self.max_active = None if max_active is None else _checked_count(max_active, "max_active")
        self.min_active = check.check_positive_int("min_active", min_active, low=0)
        if isinstance(self.max_active, int) and self.min_active > self.max_active:
            raise ValueError(f"min_active={min_active} is more than max_active={max_active}")
        if rebuild_every is not None:
            rebuild_every = check.check_positive_int("rebuild_every", rebuild_every)
        self.rebuild_every = rebuild_every
        self.rebuild_decay = check.check_finite_float(
            "rebuild_decay", rebuild_decay, at_least=0.0, at_most=100.0
        )
        self.new_functions_every = check.check_positive_int(
            "new_functions_every", new_functions_every, low=0, high=2**63 - 1
        )
        self.schedule = rebuilds.get(schedule)
        if self.rebuild_decay and not self.schedule.decays:
            raise ValueError(f"rebuild_decay={rebuild_decay} with schedule={self.schedule!r}")
        if self.new_functions_every and not self.schedule.redraws:
            raise ValueError(
                f"new_functions_every={new_functions_every} with schedule={self.schedule!r}, "
                f"which draws new functions for every table"
            )
        self.candidates = candidates
        if isinstance(candidates, float):
            check.check_finite_float("candidates", candidates, at_least=1.0, at_most=1e9)
        elif candidates is not None:
            self.candidates = check.check_positive_int("candidates", candidates)
        self.scale = check.check_finite_float("scale", scale, at_least=1e-6, at_most=1e6)
        self.strategy = check.check_in("strategy", strategy, STRATEGIES)
        self.query = check.check_in("query", query, ("input", "label"))
        if min_collisions is not None:
            if strategy != "threshold":
                raise ValueError(f"min_collisions={min_collisions} with strategy={strategy!r}")
            min_collisions = check.check_positive_int(
                "min_collisions", min_collisions, high=self.hash.n_tables
            )
        self.min_collisions = min_collisions
        if bucket_size is not None:
            bucket_size = check.check_positive_int("bucket_size", bucket_size, high=2**31 - 1)
        self.bucket_size = bucket_size
        self.overflow = overflow
        if overflow is not None:
            self.overflow = check.check_in("overflow", overflow, ("reservoir", "fifo"))
            if bucket_size is None:
                raise ValueError(f"overflow={overflow!r} of buckets without a bucket_size")
        self.correction = _checked_correction(correction)
        if correction is not None:
            reason = self.hash.no_inclusion()
            if reason is not None:
                raise ValueError(
                    f"correction={correction!r} needs the inclusion probabilities of "
                    f"{self.hash!r}: {reason}"
                )
            if self.min_active:
                raise ValueError(
                    f"correction={correction!r} with min_active={min_active}: random neurons that "
                    f"fill the set up have no weights; set min_active=0"
                )
            for name, value, needed in (
                ("strategy", strategy, "vanilla"),
                ("query", query, "input"),
                ("candidates", candidates, None),
                ("bucket_size", bucket_size, None),
            ):
                if value != needed:
                    raise ValueError(
                        f"correction={correction!r} with {name}={value!r}: inclusion probabilities "
                        f"are known with {name}={needed!r} only"
                    )
        self.choice: Choice | None = None
        if choice is not None:
            if not self.chooses:
                raise ValueError(f"choice={choice!r} of {self!r}, which does not choose")
            self._take(choice)

    @property
    def chooses(self) -> bool:
        plain = LSH("clusters", self.max_active).get_config() if not self._given else {}
        own = self.get_config()
        return not self._given and all(
            own[name] == value for name, value in plain.items() if name not in ("hash", "choice")
        )

    def _take(self, choice: Any) -> None:
        from slide import tuning  # which imports this module

        if isinstance(choice, dict):
            choice = tuning.Choice.from_dict(choice)
        if not isinstance(choice, tuning.Choice):
            raise TypeError(f"choice must be a slide.tuning.Choice, got {choice!r}")
        family = lsh_of(choice.sampler, 1)
        if family is None or getattr(choice.sampler, "chooses", False):
            raise ValueError(f"choice={choice!r} has no family")
        self.hash, self.choice = family.hash, choice

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        if self.choice is not None:
            return self.choice.sampler.active_set(n_neurons, dim, seed, n_threads)
        if self.chooses:
            return Mixture(parts(self, n_neurons)).active_set(n_neurons, dim, seed, n_threads)
        return Mixture([self]).active_set(n_neurons, dim, seed, n_threads)

    def selector(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        if self.correction is not None:
            raise ValueError(f"{self!r} on a hidden layer: correction is for output layers")
        if self.query == "label":
            raise ValueError(f"{self!r} on a hidden layer: query='label' is for output layers")
        fraction = 0.05 if self.max_active is None else self.max_active
        n_active = _hidden_count(self, "max_active", fraction, n_neurons)
        if self.min_active > n_neurons:
            raise ValueError(f"min_active={self.min_active} on a layer of {n_neurons} neurons")
        candidates = 2.0 if self.candidates is None else self.candidates
        if isinstance(candidates, float):
            candidates = min(n_neurons, round(candidates * n_active))
        elif not n_active <= candidates <= n_neurons:
            raise ValueError(
                f"candidates={candidates} must be between max_active, {n_active} neurons, and the "
                f"layer's {n_neurons}"
            )
        retriever = self.hash.tracker(n_neurons, dim, seed, n_threads)
        self.equip(retriever, n_neurons, 0, seed, n_threads)
        schedule = self.plan(retriever, n_neurons, dim, seed, 1 if self.hash.tracks else None)
        active = ActiveSet(
            n_neurons,
            retriever,
            candidates,
            self.min_active,
            0,
            0,
            0,
            False,
            schedule,
            n_threads,
        )
        return _selection.LSHSelector(active, n_active, dim, self.scale, n_threads)

    def plan(
        self, retriever: Any, n_neurons: int, dim: int, seed: int, every: int | None = None
    ) -> tuple[float, ...]:
        """Return the kernel's schedule, for which `retriever` is ready afterwards.

        every : steps, where the layer's kind has another default than its size
        """
        every = self.rebuild_every or every or default_every(n_neurons)
        self.schedule.attach(retriever, self.hash, dim, seed)
        numbers = self.schedule.numbers(every, self.hash.n_tables)
        return float(every), self.rebuild_decay, self.new_functions_every, *numbers

    def equip(
        self, retriever: Any, n_neurons: int, n_candidates: int, seed: int, n_threads: int
    ) -> None:
        """Give `retriever` the strategy, the bound of buckets and what to rank.

        Raises
        ------
        ValueError
            If the tables do not go with the strategy or bounded buckets.
        MemoryError
            If what the strategy and candidates need would not fit into the available memory.
        """
        counters = 0 if self.strategy == "vanilla" else 6 * n_neurons
        check_memory(
            f"{self!r} on {n_neurons:,} neurons", n_threads * (counters + 16 * n_candidates)
        )
        try:
            retriever.equip(
                self.strategy,
                self.min_collisions or min(2, self.hash.n_tables),
                self.query,
                n_candidates,
                self.bucket_size or 0,
                self.overflow or "reservoir",
                seed,
            )
        except ValueError as error:
            raise ValueError(
                f"strategy={self.strategy!r}, bucket_size={self.bucket_size} with {self.hash!r}: "
                f"{error}"
            ) from error

    def ranked(self, n_neurons: int) -> int:
        """Return how many neurons of an output layer of that size are ranked; 0: none is.

        Raises
        ------
        ValueError
            If `candidates` is less than `max_active` or more than the layer has, and as `limits`.
        """
        most, _ = self.limits(n_neurons)
        if self.candidates is None:
            return 0
        if isinstance(self.candidates, float):
            return min(n_neurons, round(self.candidates * most))
        if not most <= self.candidates <= n_neurons:
            raise ValueError(
                f"candidates={self.candidates} must be between max_active, {most} neurons, and the "
                f"layer's {n_neurons}"
            )
        return self.candidates

    def limits(self, n_neurons: int) -> tuple[int, int]:
        """Return max_active and min_active for an output layer of that size.

        Raises
        ------
        ValueError
            If there is a `scale`, or the layer has fewer neurons than `min_active`.
        """
        if self.scale != 1:
            raise ValueError(f"{self!r} on an output layer: scale is for hidden ones")
        most = self.max_active
        if most is None:
            most = max(self.min_active, 64, min(4096, round(0.03 * n_neurons)))
        elif isinstance(most, float):
            most = max(1, self.min_active, round(most * n_neurons))
        if self.min_active > n_neurons:
            raise ValueError(f"min_active={self.min_active} on a layer of {n_neurons} neurons")
        return min(most, n_neurons), self.min_active

    def get_config(self) -> dict[str, Any]:
        return {
            "hash": hashing.serialize(self.hash) if self._given else None,
            "max_active": self.max_active,
            "min_active": self.min_active,
            "rebuild_every": self.rebuild_every,
            "rebuild_decay": self.rebuild_decay,
            "new_functions_every": self.new_functions_every,
            "candidates": self.candidates,
            "scale": self.scale,
            "schedule": rebuilds.serialize(self.schedule),
            "correction": self.correction,
            "strategy": self.strategy,
            "min_collisions": self.min_collisions,
            "query": self.query,
            "bucket_size": self.bucket_size,
            "overflow": self.overflow,
            "choice": None if self.choice is None else self.choice.to_dict(),
        }

    def _arguments(self) -> dict[str, Any]:
        if self.choice is not None:
            return {"max_active": self.max_active, "choice": self.choice.sampler}
        family = self.hash if self._given else None
        arguments = {**self.get_config(), "hash": family, "schedule": self.schedule}
        del arguments["choice"]
        return arguments


class Uniform(Sampler):
    """Random neurons, drawn without replacement from those that are not frequent.

    In a hidden layer this is vanilla dropout (Srivastava et al., JMLR 2014) at the same fraction,
    with a fixed number of neurons: each sample of each step draws its own set, whose activations
    are divided by the set's share of the layer; predictions compute all neurons, without a factor.
    `correction` and `shared` are for output layers.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or a layer has not so many neurons.

    Examples
    --------
    >>> Uniform(0.05).get_config()
    {'n': 0.05, 'correction': 'logq', 'shared': True}
    """

    def __init__(self, n: int | float, correction: str | None = "logq", shared: bool = True):
        self.n = _checked_count(n)
        self.correction = _checked_correction(correction)
        self.shared = check.check_bool("shared", shared)

    for_hidden = True

    def selector(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        n_active = _hidden_count(self, "n", self.n, n_neurons)
        return _selection.UniformSelector(n_neurons, n_active, n_threads)

    def count(self, n_neurons: int) -> int:
        """Return the number of neurons drawn from a layer of that size."""
        return _count(self, self.n, n_neurons)

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return Mixture([self]).active_set(n_neurons, dim, seed, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n, "correction": self.correction, "shared": self.shared}


class Unigram(Sampler):
    """Random neurons, drawn more often the more often they were labels so far.

    Frequent labels have larger probabilities, so an estimate that looks at them more often varies
    less: word models draw their noise words by ``count ** 0.75`` (Mikolov et al., NIPS 2013).
    Before the first labels the draw is uniform.

    Parameters
    ----------
    n : int or float
        So many neurons, or (a float) this fraction of the layer, in (0, 1].
    power : float
        In [0, 1]: of the counts; 0 is uniform.
    correction : {"logq", None}
        ``"logq"``: neuron i is weighted by the inverse of its inclusion probability ``pi_i``, as in
        `Uniform`. None: no weights, and frequent labels are pushed down more often than they are
        predicted.
    shared : bool
        Whether all samples of a batch have the same random neurons, or each its own; see `Uniform`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or a layer has not so many neurons.

    Notes
    -----
    ``pi_i = min(1, c q_i)`` with ``q_i = (count_i + 1) ** power + 0.1 mean((count + 1) ** power)``
    and c such that the probabilities sum to `n`: no neuron has a probability below 1/11 of a
    uniform draw's. They are exact, by systematic sampling (Madow, Ann. Math. Stat. 1949) along a
    random order of the neurons. q follows the counts each time that they have grown by an eighth.

    Examples
    --------
    >>> Unigram(0.05).get_config()
    {'n': 0.05, 'power': 0.75, 'correction': 'logq', 'shared': True}
    """

    def __init__(
        self,
        n: int | float,
        power: float = 0.75,
        correction: str | None = "logq",
        shared: bool = True,
    ):
        self.n = _checked_count(n)
        self.power = check.check_finite_float("power", power, at_least=0.0, at_most=1.0)
        self.correction = _checked_correction(correction)
        self.shared = check.check_bool("shared", shared)

    def count(self, n_neurons: int) -> int:
        """Return the number of neurons drawn from a layer of that size."""
        return _count(self, self.n, n_neurons)

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return Mixture([self]).active_set(n_neurons, dim, seed, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "power": self.power,
            "correction": self.correction,
            "shared": self.shared,
        }


class Frequent(Sampler):
    """The neurons that were labels most often so far, for every sample.

    They are the ones with the largest mean probabilities. Computed always, they need no weights,
    and what is left for a random tail to estimate is small. As a block shared by the batch they
    cost a fraction of what retrieved neurons do.

    Parameters
    ----------
    n : int or float
        So many neurons, or (a float) this fraction of the layer, in (0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or a layer has not so many neurons.

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
    """Several samplers at once; what `Auto` takes for output layers of more than 32,768 neurons.

    Retrieved and frequent neurons have weight 1, random ones the inverse of their inclusion
    probability. Together they estimate sums over the whole layer, as softmax has one in its
    denominator, without bias whatever is retrieved; good retrieval makes the variance small. The
    random tail keeps neurons that are never retrieved from drifting up unseen.

    Parameters
    ----------
    samplers : iterable
        At most one each of `LSH`, `Frequent` and a random tail, `Uniform` or `Unigram`, in any
        order.

    Raises
    ------
    TypeError, ValueError
        If they are not at most one of each, a random tail comes with what corrects for itself, or a
        layer has fewer neurons than are frequent and drawn.

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
        kinds = [Uniform if type(part) is Unigram else type(part) for part in self.samplers]
        once = len(set(kinds)) == len(kinds)
        if not kinds or not once or not {LSH, Frequent, Uniform}.issuperset(kinds):
            raise ValueError(
                f"samplers must be at most one each of LSH, Frequent and Uniform or Unigram, "
                f"got {self.samplers!r}"
            )
        for part in self.samplers:
            if isinstance(part, LSH) and part.correction is not None and Uniform in kinds:
                raise ValueError(
                    f"{part!r} with a random tail, which corrects for what is not retrieved: "
                    f"set correction=None"
                )

    @property
    def retrieves(self) -> bool:  # type: ignore[override]
        return any(part.retrieves for part in self.samplers)

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        retriever, most, least = None, 0, 0
        schedule: tuple[float, ...] = (1.0, 0.0, 0)
        n_tail, n_own, n_frequent, corrected = 0, 0, 0, False
        power, inclusion, draws = -1.0, None, False
        for part in self.samplers:
            if isinstance(part, LSH):
                retriever = part.hash.retriever(n_neurons, dim, seed, n_threads)
                most, least = part.limits(n_neurons)
                part.equip(retriever, n_neurons, part.ranked(n_neurons), seed, n_threads)
                schedule = part.plan(retriever, n_neurons, dim, seed)
                if part.correction is not None:
                    draws = part.hash.draws
                    inclusion = part.hash.inclusion(retriever, n_neurons, dim, n_threads)
                    if draws and n_neurons > DRAWN * most:
                        raise ValueError(
                            f"{part!r} on {n_neurons:,} neurons: {most} of them are too few to "
                            f"draw by activation, {DRAWN:,} for each are the most; set a larger "
                            f"max_active, or correction=None with n_cells='auto' and a random tail"
                        )
            elif isinstance(part, Frequent):
                n_frequent = part.count(n_neurons)
            elif isinstance(part, (Uniform, Unigram)):
                power = part.power if isinstance(part, Unigram) else -1.0
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
            power,
            inclusion,
            draws,
        )

    def get_config(self) -> dict[str, Any]:
        return {"samplers": [serialize(part) for part in self.samplers]}

    def _arguments(self) -> dict[str, Any]:
        return {"samplers": self.samplers}


class WinnerTakeAll(Sampler):
    """The neurons of a hidden layer with the largest activations, found by computing all of them.

    Training and predictions keep the same share of every sample's activations, the k-sparse rule of
    Makhzani & Frey (ICLR 2014), called WTA in Spring & Shrivastava (KDD 2017).
    `LifetimeSparsity` is the other rule of that name, over a batch.

    Parameters
    ----------
    fraction : float
        Of the layer that is kept, in (0, 1].
    scale : float
        Kept activations are multiplied by it.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or the fraction of a layer is less than
        one neuron.

    Examples
    --------
    >>> WinnerTakeAll(0.05)
    WinnerTakeAll(fraction=0.05, scale=1.0)
    """

    for_output = False
    for_hidden = True

    def __init__(self, fraction: float, scale: float = 1.0):
        self.fraction = check.check_fraction("fraction", fraction)
        self.scale = check.check_finite_float("scale", scale, at_least=1e-6, at_most=1e6)

    def selector(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        n_active = _hidden_count(self, "fraction", self.fraction, n_neurons)
        return _selection.WinnerSelector(n_neurons, n_active, self.scale, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {"fraction": self.fraction, "scale": self.scale}


class LifetimeSparsity(Sampler):
    """Every neuron of a hidden layer for those samples of a batch that activate it most.

    The winner-take-all autoencoders of Makhzani & Frey (NIPS 2015): of a neuron's activations over
    a batch the largest are kept, at least one, so that every neuron learns. Predictions compute all
    neurons and keep all.

    Parameters
    ----------
    fraction : float
        Of a batch's samples for which a neuron is active, in (0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.

    Examples
    --------
    >>> LifetimeSparsity(0.05)
    LifetimeSparsity(fraction=0.05)
    """

    for_output = False
    for_hidden = True
    needs_batch = True

    def __init__(self, fraction: float):
        self.fraction = check.check_fraction("fraction", fraction)

    def selector(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        return _selection.LifetimeSelector(n_neurons, self.fraction, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {"fraction": self.fraction}


class Standout(Sampler):
    """Neurons of a hidden layer drawn by their activations: adaptive dropout.

    Training keeps a neuron with probability ``sigmoid(alpha z + beta)`` of its weighted sum
    ``z = w . x + b`` (Ba & Frey, NIPS 2013, with the standout network's weights tied to the
    layer's); the draw is not differentiated. Predictions compute all neurons and multiply every
    activation by its probability, the expected mask.

    Parameters
    ----------
    fraction : float
        Wanted share of the layer, in (0, 1].
    alpha : float
        Steepness.
    beta : float or None
        Offset. None: it is solved so that the mean probability over a batch is `fraction`;
        predictions use a moving mean of the batches' solutions (0.9 of the old, 0.1 of the new).

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or the fraction of a layer is less than
        one neuron.

    Examples
    --------
    >>> Standout(0.05)
    Standout(fraction=0.05, alpha=1.0, beta=None)
    """

    for_output = False
    for_hidden = True

    def __init__(self, fraction: float, alpha: float = 1.0, beta: float | None = None):
        self.fraction = check.check_fraction("fraction", fraction)
        self.alpha = check.check_finite_float("alpha", alpha, at_least=-1e3, at_most=1e3)
        self.beta = beta
        if beta is not None:
            self.beta = check.check_finite_float("beta", beta, at_least=-1e3, at_most=1e3)

    @property
    def needs_batch(self) -> bool:  # type: ignore[override]
        return self.beta is None

    def selector(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        _hidden_count(self, "fraction", self.fraction, n_neurons)
        return _selection.StandoutSelector(
            n_neurons, self.fraction, self.alpha, self.beta, n_threads
        )

    def get_config(self) -> dict[str, Any]:
        return {"fraction": self.fraction, "alpha": self.alpha, "beta": self.beta}


class Auto(Sampler):
    """The recommended sampler of a wide output layer, by its size.

    Up to 32,768 neurons: 2% of the layer (at least 32, at most 256), labels included, drawn in
    proportion to the exponentials of their activations as `slide.hashing.Sketches` estimate them,
    and weighted by the inverse of their inclusion probabilities. How well a draw stands for the
    layer depends on the number of its neurons more than on their share.

    Beyond that, where scoring all neurons would cost more than it gives, and with ``fast=True``: a
    `Mixture` of the labels most frequent so far (2.5% of the layer, at most 1,000), neurons
    retrieved by `slide.hashing.Clusters` and random ones of every sample's own, weighted by their
    inclusion probability (0.75% of each, at least 32 and at most 200): about 4% of a layer of
    13,000 neurons, 0.2% of one of 670,000.

    Parameters
    ----------
    fast : bool
        Whether small layers have the mixture, too. An epoch then takes up to a quarter less on
        layers of 13,000 neurons and nothing less on one of 20,679, and ends with a little less
        accuracy.

    Raises
    ------
    TypeError
        If `fast` is no bool.

    Examples
    --------
    >>> Auto().mixture(10_000).samplers[0].max_active
    200
    >>> Auto().mixture(670_000).samplers[1]
    Frequent(n=1000)
    """

    retrieves = True

    def __init__(self, fast: bool = False):
        self.fast = check.check_bool("fast", fast)

    def mixture(self, n_neurons: int) -> Mixture:
        """Return the mixture for a layer of that size."""
        if n_neurons <= hashing.sketches.ONE_CELL and not self.fast:
            n_active = min(n_neurons, max(32, min(256, round(0.02 * n_neurons))))
            drawn = LSH(
                hashing.Sketches(n_cells=1),
                max_active=n_active,
                rebuild_every=25,
                correction="logq",
            )
            return Mixture([drawn])
        if n_neurons < 4:
            return Mixture([LSH("clusters", max_active=n_neurons)])
        few = min(n_neurons // 4, max(32, min(200, round(0.0075 * n_neurons))))
        frequent = max(1, min(1000, round(0.025 * n_neurons)))
        retrieved = LSH("clusters", max_active=few)
        return Mixture([retrieved, Frequent(frequent), Uniform(few, shared=False)])

    def active_set(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> ActiveSet:
        return self.mixture(n_neurons).active_set(n_neurons, dim, seed, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {"fast": self.fast}


def default_every(n_neurons: int) -> int:
    """Return the steps from rebuild to rebuild of the tables of an output layer of that size."""
    return max(50, n_neurons // 1024)


def parts(sampler: Sampler, n_neurons: int) -> list[Sampler]:
    """Return the samplers that together are that of a layer of that size."""
    if isinstance(sampler, LSH) and sampler.chooses:
        from slide import tuning  # which imports this module

        sampler = (
            tuning.sampler_with(sampler.hash, n_neurons, sampler.limits(n_neurons)[0])
            if sampler.choice is None
            else sampler.choice.sampler
        )
    if isinstance(sampler, Auto):
        sampler = sampler.mixture(n_neurons)
    return sampler.samplers if isinstance(sampler, Mixture) else [sampler]


def lsh_of(sampler: Sampler, n_neurons: int) -> LSH | None:
    """Return the part of a sampler that retrieves neurons of a layer of that size, if one does."""
    return next((part for part in parts(sampler, n_neurons) if isinstance(part, LSH)), None)


def _checked_count(n: Any, name: str = "n") -> int | float:
    return (
        check.check_fraction(name, n) if isinstance(n, float) else check.check_positive_int(name, n)
    )


def _checked_correction(correction: Any) -> str | None:
    return None if correction is None else check.check_in("correction", correction, ("logq",))


def _count(sampler: Sampler, n: int | float, n_neurons: int) -> int:
    if isinstance(n, float):
        return max(1, round(n * n_neurons))
    if n > n_neurons:
        raise ValueError(f"{sampler!r} on a layer of {n_neurons} neurons")
    return n


def _hidden_count(sampler: Sampler, name: str, n: int | float, n_neurons: int) -> int:
    if isinstance(n, float) and n * n_neurons < 1:
        raise ValueError(f"{sampler!r}: {name}={n} of {n_neurons} neurons is less than one neuron")
    return _count(sampler, n, n_neurons)


def get(identifier: Any) -> Sampler:
    """Return a sampler from its name, itself or what `serialize` gave.

    ``"auto"`` is `Auto`.
    """
    if identifier == "auto":
        return Auto()
    classes = (
        Auto,
        LSH,
        Frequent,
        LifetimeSparsity,
        Uniform,
        Unigram,
        Mixture,
        Standout,
        WinnerTakeAll,
    )
    return check.resolve("sampler", identifier, Sampler, classes)


def serialize(sampler: Sampler) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal sampler."""
    return check.serialize_config(sampler)
