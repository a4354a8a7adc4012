"""How far sampled softmax gradients are from those of the full softmax, at equal active sizes.

    python benchmarks/estimators.py --markdown table.md

Every way to choose active neurons sees the same weights, inputs and labels, and computes the same
number of neurons for a sample. Errors are relative L2 distances: of the gradient of all logits of a
batch, of the weights' gradient of one batch, and of its mean over all draws, which is the bias and
what is left of the noise. Weights are synthetic (scales of the logits) and those of a network while
it learns WordNet. Tables of fewer bits are taken until they return enough neurons.

The program fails if one of ours is worse than uncorrected LSH while anything was learned. At the
start, where all neurons are as likely, any sample of the same size is as good, and those that are
retrieved say nothing about the others.
"""

import argparse
import math
import sys
import time

import _common
import numpy as np
import scipy.sparse as sp

import slide
from slide import hashing, sampling
from slide._kernels.optim import Parameters
from slide._memory import padded
from slide.data import load_wordnet

NEURONS, DIM, CENTRES = 20_000, 64, 500
SCALES = {"start": 2.0, "flat": 8.0, "medium": 14.0, "peaked": 40.0}
EPOCHS = {"flat": 0.2, "medium": 1.0, "peaked": 12.0}
LEARNED = ("flat", "medium", "peaked")
WARM_UP = 24
"""Batches that samplers see before they are measured: rebuilds, label counts, mean inputs."""


def systems(n, n_bits):
    """Samplers of about as many neurons as the recommended mixture has, and that number."""
    auto = sampling.Auto(fast=True).mixture(n).samplers
    size = sum(part.max_active if isinstance(part, sampling.LSH) else part.n for part in auto)
    frequent = next(part.n for part in auto if isinstance(part, sampling.Frequent))
    few = (size - frequent) // 2

    def lsh(hash, most, **arguments):
        return sampling.LSH(hash, most, rebuild_every=1, **arguments)

    simhash = hashing.SimHash(n_bits, n_tables=50)
    redrawn = {"new_functions_every": 1}
    heads = {"Clusters": hashing.Clusters(), "Sketches": hashing.Sketches()}
    mixtures = {
        f"{name} + frequent + uniform": sampling.Mixture(
            [lsh(head, few), sampling.Frequent(frequent), sampling.Uniform(few, shared=False)]
        )
        for name, head in heads.items()
    }
    half = size // 2
    return size, {
        "LSH, uncorrected": lsh(simhash, size, **redrawn),
        "LSH, as SLIDE fills it up": lsh(simhash, size, min_active=size, **redrawn),
        "LSH, logq": lsh(simhash, size, correction="logq", **redrawn),
        "Sketches, logq": lsh(heads["Sketches"], size, correction="logq"),
        "uniform, uncorrected": sampling.Uniform(size, correction=None, shared=False),
        "uniform": sampling.Uniform(size, shared=False),
        "unigram": sampling.Unigram(size, shared=False),
        **mixtures,
        "Sketches + uniform": sampling.Mixture(
            [lsh(heads["Sketches"], half), sampling.Uniform(size - half, shared=False)]
        ),
        "Sketches + unigram": sampling.Mixture(
            [lsh(heads["Sketches"], half), sampling.Unigram(size - half, shared=False)]
        ),
    }


UNCORRECTED = ("LSH, uncorrected", "LSH, as SLIDE fills it up")
OURS = (
    "Sketches, logq",
    "Clusters + frequent + uniform",
    "Sketches + frequent + uniform",
    "Sketches + uniform",
)


# ---------------------------------------------------------------- layers


def synthetic(scale, rng):
    """Weights in groups, and inputs near the weights of labels, which are as frequent as words."""
    centres = rng.standard_normal((CENTRES, DIM))
    weights = centres[rng.integers(0, CENTRES, NEURONS)] + 0.8 * rng.standard_normal((NEURONS, DIM))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    share = 1 / np.arange(1, NEURONS + 1)
    labels = rng.choice(NEURONS, (WARM_UP + 1) * 256, p=share / share.sum())
    x = weights[labels] + 0.08 * rng.standard_normal((len(labels), DIM))
    x *= scale / np.linalg.norm(x, axis=1, keepdims=True)
    return weights.T, np.zeros(NEURONS), x, [[label] for label in labels]


def wordnet_snapshots(rng, n_jobs):
    """Yield name, weights, biases, inputs and labels of the output layer as a network learns."""
    data = load_wordnet()
    n_labels = data.Y_train.shape[1]
    model = _common.slide_model(
        data.X_train.shape[1], n_labels, "auto", hidden=128, learning_rate=2e-3, seed=0
    )
    done = 0.0
    for name, epochs in EPOCHS.items():
        share = min(1.0, epochs - done)
        some = rng.permutation(data.X_train.shape[0])[: round(share * data.X_train.shape[0])]
        model.fit(
            data.X_train[some],
            data.Y_train[some],
            epochs=max(1, round(epochs - done)),
            batch_size=256,
            verbose=0,
            n_jobs=n_jobs,
        )
        done = epochs
        first, bias, weights, biases = model.get_weights()
        rows = rng.choice(data.X_train.shape[0], (WARM_UP + 1) * 256, replace=False)
        x = np.maximum(data.X_train[rows] @ first + bias, 0)
        y = data.Y_train[rows]
        labels = [y.indices[y.indptr[i] : y.indptr[i + 1]] for i in range(len(rows))]
        yield name, weights, biases, x, labels


# ---------------------------------------------------------------- gradients


def targets(labels, n):
    y = np.zeros((len(labels), n))
    for row, of_row in zip(y, labels, strict=True):
        row[of_row] = 1 / max(1, len(of_row))
    return y


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def most_bits(weights, biases, x, size):
    """The bits of tables that return `size` neurons for nearly all inputs."""
    dim, n = weights.shape
    rows = np.zeros((n, padded(dim + 1)), np.float32)
    rows[:, :dim], rows[:, dim] = weights.T, biases
    inputs = np.zeros((len(x), padded(dim + 1)), np.float32)
    inputs[:, :dim], inputs[:, dim] = x, 1
    none = np.zeros((n, 0), np.float32)
    parameters = Parameters(rows, none, none, dim + 1, dim)
    for n_bits in (9, 7, 5, 4, 3, 2):
        sampler = sampling.LSH(hashing.SimHash(n_bits, n_tables=50), size)
        own = sampler.active_set(n, dim + 1, 0, 1).select_batch(parameters, inputs, [[]] * len(x))[
            2
        ]
        if np.mean([len(ids) for ids, _ in own]) > 0.95 * size:
            break
    return n_bits


def measure(sampler, weights, biases, x, labels, n_samples, n_draws):
    """Relative errors of a sampler's gradients, neurons computed for a sample, and seconds."""
    start = time.perf_counter()
    dim, n = weights.shape
    model = slide.Sequential(
        [slide.Input(dim, sparse=False), slide.Dense(n, "softmax", sampler=sampler)]
    )
    model.set_weights([weights.astype(np.float32), biases.astype(np.float32)])
    model.compile(slide.optimizers.SGD(0.0), "categorical_crossentropy")
    warm = 256 * WARM_UP
    y = targets(labels[warm : warm + n_samples], n)
    x32 = np.asarray(x, np.float32)
    # Steps that change no weight: tables are built and rebuilt, labels counted, inputs observed.
    # Functions that are drawn without looking at anything need none.
    needless = getattr(sampler, "new_functions_every", 0)
    for at in range(0, 0 if needless else warm, 256):
        some = labels[at : at + 256]
        indptr = np.cumsum([0, *map(len, some)])
        y_some = (np.ones(indptr[-1], np.float32), np.concatenate(some).astype(np.int32), indptr)
        model.train_on_batch(x32[at : at + 256], sp.csr_matrix(y_some, shape=(256, n)))
    layer = model.layers[-1]
    active = layer.active_set(1)
    parameters = layer._parameters(False)
    inputs = np.zeros((n_samples, padded(dim + 1)), np.float32)
    inputs[:, :dim], inputs[:, dim] = x32[warm : warm + n_samples], 1
    z = inputs[:, :dim].astype(float) @ weights + biases
    full = softmax(z) - y
    full_weights = full.T @ inputs
    errors = {"logits": [], "weights": []}
    mean, size = np.zeros_like(full_weights), 0
    for draw in range(n_draws):
        shared, pi, own = active.select_batch(
            parameters, inputs, labels[warm : warm + n_samples], seed=1, step=model.step + draw
        )
        shift = np.full((n_samples, n), -np.inf)
        for row, (ids, own_pi) in zip(shift, own, strict=True):
            row[shared], row[ids] = -np.log(pi), -np.log(own_pi)
        size += np.isfinite(shift).sum() / n_samples / n_draws
        found = softmax(z + shift) - y
        found_weights = found.T @ inputs
        errors["logits"].append(np.linalg.norm(found - full) / np.linalg.norm(full))
        errors["weights"].append(
            np.linalg.norm(found_weights - full_weights) / np.linalg.norm(full_weights)
        )
        mean += found_weights / n_draws
    bias = np.linalg.norm(mean - full_weights) / np.linalg.norm(full_weights)
    return {
        "logits": float(np.mean(errors["logits"])),
        "weights": float(np.mean(errors["weights"])),
        "mean": float(bias),
        "size": float(size),
        "seconds": time.perf_counter() - start,
        "perplexity": float(np.exp(-(softmax(z) * np.log(softmax(z) + 1e-300)).sum(1)).mean()),
    }


def table(title, results):
    """A Markdown table of one layer's results."""
    header = ["active neurons", "of a sample", "logits", "weights, one batch", "weights, mean"]
    rows = [
        [name, f"{r['size']:,.0f}", *(f"{r[key]:.3f}" for key in ("logits", "weights", "mean"))]
        for name, r in results.items()
    ]
    return _common.markdown_table(header, rows, title)


def verdict(results):
    """Names of ours that an uncorrected way of choosing neurons beats, in any column."""
    return [
        f"{name} ({key} {results[name][key]:.3f}, {other} {results[other][key]:.3f})"
        for name in OURS
        for other in UNCORRECTED
        for key in ("logits", "weights")
        if name in results and other in results and results[name][key] >= results[other][key]
    ]


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--samples", type=int, default=32, help="of a batch")
    options.add_argument("--draws", type=int, default=4)
    options.add_argument("--threads", type=int, default=_common.cpu_count(), help="of training")
    options.add_argument("--only", nargs="+", choices=["synthetic", "wordnet"])
    options.add_argument("--markdown", help="file for the tables")
    given = options.parse_args()
    if not 1 <= given.samples <= 256 or given.draws < 1:
        options.error("--samples must be 1 to 256 and --draws at least 1")
    only = given.only or ["synthetic", "wordnet"]
    rng = np.random.default_rng(0)
    start = time.perf_counter()

    def layers():
        if "synthetic" in only:
            for name, scale in SCALES.items():
                yield name, f"{NEURONS:,} synthetic neurons, {name}", *synthetic(scale, rng)
        if "wordnet" in only:
            for name, *layer in wordnet_snapshots(rng, given.threads):
                trained = f"after {EPOCHS[name]:g} epochs, {name}"
                yield name, f"WordNet's {layer[0].shape[1]:,} labels {trained}", *layer

    texts, beaten = [], []
    for kind, title, weights, biases, x, labels in layers():
        size, _ = systems(weights.shape[1], 9)
        n_bits = most_bits(weights, biases, x[:32], size)
        size, samplers = systems(weights.shape[1], n_bits)
        results = {}
        for name, sampler in samplers.items():
            results[name] = measure(sampler, weights, biases, x, labels, given.samples, given.draws)
            print(f"{title}: {name}: {results[name]['seconds']:.1f} s", file=sys.stderr)
        perplexity = math.floor(results["uniform"]["perplexity"])
        title_ = f"{title} (perplexity {perplexity:,}), {size} active; LSH has {n_bits} bits."
        texts.append(table(title_, results))
        if kind in LEARNED:
            beaten += [f"{title}: {line}" for line in verdict(results)]
    host = _common.machine()
    texts.append(
        f"Relative errors of gradients, {given.samples} samples, {given.draws} draws. "
        f"{host['cpu']}, {host['cpus']} CPUs, {host['date']}; "
        f"{time.perf_counter() - start:.0f} s in all.\n"
    )
    _common.publish("\n".join(texts), beaten, given.markdown)


if __name__ == "__main__":
    main()
