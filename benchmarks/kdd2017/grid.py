"""What is run: the networks, the training, and the list of configurations of every experiment.

A `Config` says everything that a result depends on; it is the key under which results are kept.
"""

import dataclasses
import itertools

FRACTIONS = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90)

METHODS = {
    "NN": "all neurons",
    "VD": "vanilla dropout",
    "AD": "adaptive dropout",
    "WTA": "winner take all",
    "ALSH": "hash tables as published",
    "LSH": "tables of principal projections",
    "RANK": "all, by principal projections",
}
"""The paper's names, and what they choose by; `train.sampler` says how they are made."""

LSH_DEFAULT = {
    "n_bits": 6,
    "n_tables": 5,
    "projection": "principal",
    "transform": None,
    "n_probes": 16,
    "candidates": 1.5,
    "rebuild_every": 1,
}
"""SimHash's and the sampler's options, wherever a configuration does not say otherwise."""

PUBLISHED = {"projection": "gaussian", "transform": "sign_alsh", "n_probes": 10, "candidates": 2.0}
"""What differs with ALSH: the paper's transform, and its about ten buckets of a table."""

HASHED = {"LSH": {}, "ALSH": PUBLISHED, "RANK": {"n_probes": 64}}
"""Methods with hash functions, and what differs from `LSH_DEFAULT`."""

OPTIMIZER = {"learning_rate": 0.01, "momentum": 0.5, "initial_accumulator_value": 1e-8}
"""Adagrad with momentum, of one step a batch."""

HOGWILD = {"learning_rate": 0.01, "initial_accumulator_value": 0.01}
"""What differs with one step a sample, whose first gradients say little about a weight's scale."""

IMAGE_SETS = ("mnist", "fashion-mnist")
GENERATED = {
    # name: (training samples, test samples), as in the paper
    "rectangles": (12_000, 50_000),
    "rectangles-images": (12_000, 50_000),
    "convex": (8_000, 50_000),
}
DATA_SETS = (*IMAGE_SETS, *GENERATED)

REPLICATION = {
    # Test accuracy on MNIST in per cent with 1 to 7 hidden layers, arXiv 2306.09293.
    "NN": (98.0, 95.8, 96.1, 95.9, 94.9, 94.4, 93.9),
    "ALSH": (94.5, 90.3, 94.2, 88.7, 70.1, 21.3, 25.1),
    "AD": (97.7, 98.0, 98.1, 98.0, 97.8, 98.0, 98.4),
}

ABLATIONS = {
    # Name -> what differs from the full configuration: "lsh" changes entries of LSH_DEFAULT,
    # everything else is a field of Config.
    "LSH": {},
    "candidates not ranked by activation": {"lsh": {"candidates": 1.0}},
    "tables rebuilt every 100 steps": {"lsh": {"rebuild_every": 100}},
    "initial weights scaled for the active share": {"initial": "active"},
    "random projections": {"lsh": {"projection": "gaussian"}},
    "random projections, 5 x candidates": {"lsh": {"projection": "gaussian", "candidates": 5.0}},
    "random projections, Sign-ALSH (ALSH)": {"method": "ALSH"},
    "exact winners (WTA)": {"method": "WTA"},
}


def lsh_options(**changes):
    """`LSH_DEFAULT` with some changes, as a tuple that a frozen configuration can hold."""
    return tuple(sorted({**LSH_DEFAULT, **changes}.items()))


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run.

    Attributes
    ----------
    data : str
        One of `DATA_SETS`.
    method : str
        One of `METHODS`.
    fraction : float
        Of every hidden layer that is active; 1.0 with NN.
    samples, test_samples : int or None
        The first so many; None: all.
    initial : {"active", "full"}
        Whether the spread of initial weights takes into account how many inputs of a layer are
        active; see `train.stddev`.
    staleness : int
        Simulated workers less one; see ``compile``.
    every_epoch : bool
        Whether the test set is looked at after every epoch, or only after the last.
    overlap_pairs : int
        Pairs of training samples whose active sets are compared after the last epoch.
    lsh : tuple of (str, value)
        From `lsh_options`; empty for the other methods, so that a change of them does not ask for
        runs that it does not touch.
    """

    data: str = "mnist"
    method: str = "LSH"
    fraction: float = 0.05
    depth: int = 3
    width: int = 1000
    epochs: int = 1
    samples: int | None = None
    test_samples: int | None = None
    batch_size: int = 128
    learning_rate: float = OPTIMIZER["learning_rate"]
    momentum: float = OPTIMIZER["momentum"]
    initial_accumulator_value: float = OPTIMIZER["initial_accumulator_value"]
    update: str = "batch"
    staleness: int = 0
    initial: str = "full"
    threads: int = 1
    seed: int = 0
    every_epoch: bool = True
    overlap_pairs: int = 0
    lsh: tuple = ()


def make(method="LSH", lsh=None, **fields):
    """A `Config` with the options of the method filled in."""
    if method == "NN":
        fields["fraction"] = 1.0
    options = lsh_options(**HASHED[method], **(lsh or {})) if method in HASHED else ()
    return Config(method=method, lsh=options, **fields)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the experiments are. `samples` bounds training sets, None leaves them whole."""

    epochs: int
    curve_epochs: int  # of accuracy against time
    grid_epochs: int  # of accuracy against active fraction
    grid_samples: int | None
    grid_depths: tuple
    samples: int | None
    test_samples: int | None
    width: int
    depths: tuple
    fractions: tuple
    data_sets: tuple
    seeds: int
    workers: tuple  # simulated
    hogwild_samples: int | None
    time_fits: tuple  # (width, training samples) of the ratio table
    repeats: int
    pairs: int


FULL = Scale(
    epochs=10,
    curve_epochs=20,
    grid_epochs=10,
    grid_samples=None,
    grid_depths=(2, 3),
    samples=None,
    test_samples=None,
    width=1000,
    depths=(1, 2, 3, 4, 5, 6, 7),
    fractions=FRACTIONS,
    data_sets=DATA_SETS,
    seeds=5,
    workers=(1, 8, 28, 56),
    hogwild_samples=None,
    time_fits=((1000, 12_800), (10_000, 1_280)),
    repeats=5,
    pairs=100_000,
)
QUICK = dataclasses.replace(
    FULL,
    epochs=3,
    curve_epochs=8,
    grid_epochs=6,
    grid_samples=12_000,
    grid_depths=(2,),
    test_samples=10_000,
    depths=(1, 3, 5, 7),
    fractions=(0.05, 0.10),
    data_sets=("mnist", "fashion-mnist", "rectangles", "convex"),
    seeds=3,
    time_fits=((1000, 12_800), (10_000, 640)),
    repeats=3,
    pairs=20_000,
)
# A look at whether everything runs, in a minute. Its numbers mean nothing.
TINY = dataclasses.replace(
    QUICK,
    epochs=2,
    curve_epochs=2,
    grid_epochs=2,
    grid_samples=512,
    grid_depths=(2, 3),
    samples=512,
    test_samples=256,
    width=64,
    depths=(1, 3),
    fractions=(0.10, 0.50),
    data_sets=("mnist", "rectangles"),
    seeds=2,
    workers=(1, 8),
    hogwild_samples=512,
    time_fits=((64, 512), (128, 256)),
    repeats=2,
    pairs=500,
)


def _common(scale, threads, **fields):
    return dict(
        epochs=scale.epochs,
        samples=scale.samples,
        test_samples=scale.test_samples,
        width=scale.width,
        threads=threads,
        **fields,
    )


def _last(scale, threads, **fields):
    """For experiments that show the end of training: the generated test sets are large."""
    return _common(scale, threads, every_epoch=False, **fields)


def _smallest(scale):
    return min(scale.fractions)


def accuracy(scale, threads):
    """Every method at every fraction, on every data set."""
    fields = {
        **_last(scale, threads),
        "epochs": scale.grid_epochs,
        "samples": scale.grid_samples,
    }
    return [
        ({}, make(method, data=data, depth=depth, fraction=fraction, **fields))
        for data, depth in itertools.product(scale.data_sets, scale.grid_depths)
        for method in METHODS
        if method != "RANK"  # a way to be faster than LSH
        for fraction in ((1.0,) if method == "NN" else scale.fractions)
    ]


def workers(scale, threads):
    """Asynchronous training: threads that race, and workers simulated in one thread.

    Only LSH: to the other methods but VD a step a sample is as expensive as in a full layer.
    """
    fields = {
        "update": "hogwild",
        # Delays end with the batch: it is made long beside them. Tables follow at its end.
        "batch_size": 512,
        **HOGWILD,
        "fraction": _smallest(scale),
    }
    runs = []
    for seed in range(scale.seeds):
        for count in (1, 2):
            row = {"kind": "threads", "workers": count}
            runs.append((row, {"threads": count, "seed": seed}))
        row = {"kind": "simulated", "workers": 2}
        runs.append((row, {"threads": 1, "staleness": 1, "seed": seed}))
    for count in scale.workers[1:]:
        row = {"kind": "simulated", "workers": count}
        runs.append((row, {"threads": 1, "staleness": count - 1}))
    common = {**_common(scale, threads, **fields), "samples": scale.hogwild_samples}
    return [(row, make(**{**common, **changes})) for row, changes in runs]


def depth(scale, threads):
    """Up to seven hidden layers."""
    return [
        ({}, make(method, depth=layers, fraction=_smallest(scale), **_last(scale, threads)))
        for method in ("NN", "AD", "ALSH", "LSH")
        for layers in scale.depths
    ]


def collapse(scale, threads):
    """Options of LSH taken back one at a time, in networks that get deeper."""
    fields = _last(scale, threads, fraction=_smallest(scale))
    return [
        ({"ablation": name}, make(depth=layers, **fields, **changes))
        for name, changes in ABLATIONS.items()
        for layers in scale.depths[1::2]
    ]


def conflicts(scale, threads):
    """How far the active sets of two samples overlap, for the methods that choose by activation."""
    fields = _last(scale, threads, overlap_pairs=scale.pairs)
    return [
        ({}, make(method, fraction=fraction, **fields))
        for method in ("LSH", "WTA")
        for fraction in scale.fractions
    ]


def time(scale, threads):
    """Every method at the smallest fraction, epoch by epoch. PyTorch's run is `torch_side`'s."""
    fields = {**_common(scale, threads), "epochs": scale.curve_epochs}
    return [({}, make(method, fraction=_smallest(scale), **fields)) for method in METHODS]


def time_fits(scale, threads):
    """The networks of the ratio table, each trained on a stated number of samples."""
    return [
        make(
            method,
            width=width,
            samples=samples,
            test_samples=256,
            epochs=2,
            threads=threads,
            fraction=_smallest(scale),
        )
        for width, samples in scale.time_fits
        for method in ("LSH", "RANK")
        if method == "RANK" or width <= 1000  # the wide network takes minutes
    ]


EXPERIMENTS = {
    "accuracy": accuracy,
    "depth": depth,
    "collapse": collapse,
    "workers": workers,
    "conflicts": conflicts,
    "time": time,
}
"""Each returns (what identifies the row beside its configuration, configuration) pairs."""
