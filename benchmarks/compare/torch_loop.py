"""The training loop that the PyTorch systems share."""

import numpy as np
import torch
from _peer import Clock, emit, end, epoch_done, speed, start

# isort: split
from torch_dense import batches, top_labels


def run(options, data, network, step):
    """Train, and report every epoch.

    Shuffling and the making of the batches' tensors happen before the clock starts.

    Parameters
    ----------
    options : namespace
        Of `_peer.parse`.
    data : _peer.Set
    network : callable
        Logits of all labels from the features of a batch, for the predictions.
    step : callable
        Trains on a batch, ``step(features, labels)``, and returns its loss.
    """
    shuffle = np.random.default_rng(options.seed)

    def prepared(limit=None):
        order = shuffle.permutation(data.x_train.shape[0])
        return batches(data.x_train, data.y_train, options.batch_size, order[:limit])

    start("torch")
    if options.steps or options.warm_up:
        first = prepared(options.batch_size)
        with Clock() as clock:
            step(*first[0])
        emit("setup", seconds=clock.seconds)
    if options.steps:
        some = prepared(options.steps * options.batch_size)
        with Clock() as clock:
            for features, labels in some:
                step(features, labels)
        speed(sum(len(features[1]) for features, _ in some), clock)
        return end()
    for epoch in range(options.epochs):
        epoch_batches = prepared()
        with Clock() as clock:
            losses = [step(features, labels) for features, labels in epoch_batches]
        epoch_done(
            epoch + 1,
            clock,
            data.scores(top_labels(network, data.x_test, options.batch_size)),
            samples=data.x_train.shape[0],
            loss=float(np.mean(losses)),
        )
    return end()


def prepare(options):
    """Settle threads and seed."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
