"""One training run with slide: from a configuration to a dictionary of results.

As a script it is the worker of one run: ``train.py JSON`` prints what `run` returns.
"""

import dataclasses
import hashlib
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from _common import cache_directory, emit, machine, run_worker, versions  # noqa: E402
from conflicts import overlaps  # noqa: E402
from grid import GENERATED, IMAGE_SETS, Config  # noqa: E402

# ---------------------------------------------------------------- data


def available(name, folder):
    """Whether the data set can be had: generated, or in the folder."""
    return name in GENERATED or (folder is not None and (Path(folder) / name).is_dir())


def _generate(name):
    """x_train, y_train, x_test, y_test of a generated set, which is made once and kept."""
    from slide import __version__, data

    path = cache_directory() / f"kdd2017-{name}-{__version__}.npz"
    if not path.exists():
        n_train, n_test = GENERATED[name]
        generate = getattr(data, "make_" + name.replace("-", "_"))
        # One call with the test set first: a shorter training set does not change it.
        x, y = generate(n_train + n_test, 0)
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, x=(x * 255).round().astype(np.uint8), y=y)
        os.replace(partial, path)
    n_test = GENERATED[name][1]
    with np.load(path) as arrays:
        x, y = arrays["x"].astype(np.float32) / 255, arrays["y"]
    return x[n_test:], y[n_test:], x[:n_test], y[:n_test]


def load(name, folder=None, samples=None, test_samples=None):
    """Read or make a data set.

    Parameters
    ----------
    name : str
    folder : path, optional
        Holds a folder for each of `grid.IMAGE_SETS`.
    samples, test_samples : int or None
        The first so many of the training and test set.

    Returns
    -------
    tuple of ndarray
        x_train, y_train, x_test, y_test; float32 in [0, 1] and int32.
    """
    if name in IMAGE_SETS:
        from slide.data import load_mnist

        images = load_mnist(Path(folder) / name)
        parts = images.x_train, images.y_train, images.x_test, images.y_test
    else:
        parts = _generate(name)
    return (*(a[:samples] for a in parts[:2]), *(a[:test_samples] for a in parts[2:]))


# ---------------------------------------------------------------- the network


def sampler(config):
    """The sampler of the hidden layers; None for all neurons."""
    from slide import hashing, sampling

    if config.method == "NN":
        return None
    if config.lsh:
        options = dict(config.lsh)
        family = ("n_bits", "n_tables", "projection", "transform", "n_probes")
        hash = hashing.SimHash(**{name: options.pop(name) for name in family if name in options})
        return sampling.LSH(hash, max_active=config.fraction, **options)
    classes = {
        "VD": sampling.Uniform,
        "AD": sampling.Standout,
        "WTA": sampling.WinnerTakeAll,
    }
    return classes[config.method](config.fraction)


def kept_power(method, fraction):
    """E[a^2] of what a hidden layer passes on, for activations of standard normal sums.

    1/2 for all ReLU neurons (He et al., ICCV 2015). The largest share s of normal values, which are
    above their quantile t, has ``s + t phi(t)``, as long as they are positive. Vanilla dropout's
    factor keeps sums as they are, and predictions of adaptive dropout compute all neurons.
    """
    if method in ("NN", "VD", "AD") or fraction >= 0.5:
        return 0.5
    normal = statistics.NormalDist()
    threshold = normal.inv_cdf(1 - fraction)
    return fraction + threshold * normal.pdf(threshold)


def stddev(config, layer, n_in):
    """Standard deviation of a hidden layer's initial weights.

    With ``initial="active"`` such that sums keep their variance from layer to layer although only
    the active neurons pass something on, with ``"full"`` as if all did.
    """
    sampled_input = layer > 0 and config.initial == "active"
    power = kept_power(config.method, config.fraction) if sampled_input else 0.5
    return math.sqrt(1 / (n_in * power))


def build(config, n_features, n_classes):
    """The network of a configuration, compiled."""
    import slide

    layers = [slide.Input(n_features, sparse=False)]
    n_in = n_features
    for layer in range(config.depth):
        spread = slide.initializers.RandomNormal(stddev=stddev(config, layer, n_in))
        layers.append(
            slide.Dense(
                config.width,
                activation="relu",
                sampler=sampler(config),
                kernel_initializer=spread,
            )
        )
        n_in = config.width
    layers.append(slide.Dense(n_classes, activation="softmax"))
    model = slide.Sequential(layers, seed=config.seed)
    model.compile(
        optimizer=slide.optimizers.Adagrad(
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            initial_accumulator_value=config.initial_accumulator_value,
        ),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        update=config.update,
        staleness=config.staleness,
    )
    return model


# ---------------------------------------------------------------- a run


def build_id():
    """A short hash of slide's code and kernels: which build a kept result comes from."""
    import slide

    digest = hashlib.sha256()
    root = Path(slide.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".so", ".pyd"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def run(config, folder=None):
    """Train, and evaluate with the method's own predictions.

    Parameters
    ----------
    config : Config
    folder : path, optional
        As in `load`.

    Returns
    -------
    dict
        "epochs": for each the accuracy in per cent and the loss on the test set (NaN where it was
        not looked at), the training loss, the seconds of the whole ``fit`` call, multiplications a
        sample, and their share of those with all neurons. "active": the share of active neurons of
        each hidden layer. "overlap": from `conflicts.overlaps`. "error": None, or why training
        ended early. Also machine and versions.
    """
    x_train, y_train, x_test, y_test = load(
        config.data, folder, config.samples, config.test_samples
    )
    classes = int(max(y_train.max(), y_test.max())) + 1
    model = build(config, x_train.shape[1], classes)
    epochs, error = [], None
    for epoch in range(config.epochs):
        start, diverged = time.perf_counter(), False
        try:
            history = model.fit(
                x_train,
                y_train,
                batch_size=config.batch_size,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
                n_jobs=config.threads,
            ).history
        except FloatingPointError as stop:
            # A result too: some configurations are there to show what goes wrong. The weights are
            # those of the last step that was possible.
            error, diverged = str(stop), True
        seconds = time.perf_counter() - start
        last = diverged or epoch == config.epochs - 1
        scores = {"accuracy": math.nan, "loss": math.nan}
        if last or config.every_epoch:
            scores = model.evaluate(x_test, y_test, n_jobs=config.threads)
        rows = model.multiplications
        parts = ("forward", "backward", "update", "hashing")
        share = math.nan if diverged else float(history["multiplications"][-1])
        epochs.append(
            {
                "epoch": epoch + 1,
                "accuracy": 100 * scores["accuracy"],
                "test_loss": scores["loss"],
                "loss": math.nan if diverged else float(history["loss"][-1]),
                "seconds": seconds,
                "products": sum(row[part] for row in rows for part in parts),
                "multiplications": share,
            }
        )
        if diverged:
            break
    found = []
    if config.overlap_pairs and not error:
        found = overlaps(
            model.active_sets(x_train, n_jobs=config.threads), y_train, config.overlap_pairs
        )
    return {
        "epochs": epochs,
        "active": [row["active_fraction"] for row in model.multiplications[:-1]],
        "samples": len(x_train),
        "overlap": found,
        "error": error,
        "machine": machine(),
        "versions": {**versions("slide-learn"), "build": build_id()},
    }


SIDES = {
    "slide": ("train.py", {}),
    "torch": ("torch_side.py", {"optimizer": "momentum"}),
    "torch, fused Adagrad": ("torch_side.py", {"optimizer": "fused"}),
}
TORCH_SIDES = ("torch", "torch, fused Adagrad")
"""With slide's optimizer, and with the fastest one that is near to it."""


def execute(config, sides=("slide",), turn=0, folder=None):
    """Train a configuration on one or several sides, each in a process of its own, in turn.

    Parameters
    ----------
    config : Config
    sides : tuple of str
        From `SIDES`. PyTorch's have all neurons, and initial weights for that.
    turn : int
        The same again, for other times of it.
    folder : path, optional
        As in `load`.

    Returns
    -------
    list of dict
        What `run` returned, for each side.
    """
    results = []
    for side in sides:
        script, arguments = SIDES[side]
        if side != "slide":
            config = dataclasses.replace(config, method="NN", fraction=1.0, lsh=())
        task = {"config": dataclasses.asdict(config), "folder": folder, **arguments}
        command = [sys.executable, str(HERE / script), json.dumps(task)]
        results.append(run_worker(command, config.threads)[-1])
    return results


def main():
    options = json.loads(sys.argv[1])
    fields = options["config"]
    fields["lsh"] = tuple(tuple(pair) for pair in fields["lsh"])
    emit("result", **run(Config(**fields), options["folder"]))


if __name__ == "__main__":
    main()
