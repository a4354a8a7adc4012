"""The same network with all neurons in PyTorch: EmbeddingBag -> ReLU -> Linear, softmax, Adam.

A process of its own that needs torch, NumPy and SciPy, but not slide. It reads a data set that
`_common.save_set` wrote and prints one JSON line per epoch.
"""

import argparse
import time

import numpy as np
import torch
from _common import FIRST, emit, load_set, peak_rss_mb, precision, versions
from torch import nn
from torch.nn import functional

ADAM = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}


def log_softmax_loss(logits, rows, labels, weights):
    """Cross entropy against sparse targets, without making them dense."""
    log_probability = functional.log_softmax(logits, dim=1)
    return -(log_probability[rows, labels] * weights).sum() / logits.shape[0]


def dense_target_loss(logits, rows, labels, weights):
    """Cross entropy against a dense matrix of target probabilities."""
    targets = torch.zeros_like(logits)
    targets[rows, labels] = weights
    return functional.cross_entropy(logits, targets)


def binary_loss(logits, rows, labels, weights):
    """Binary cross entropy summed over the labels: log(1 + e^z) of all less z of the true ones."""
    softplus = functional.softplus(logits).sum()
    return (softplus - logits[rows, labels].sum()) / logits.shape[0]


LOSSES = {
    "log-softmax": log_softmax_loss,
    "dense-targets": dense_target_loss,
    "binary": binary_loss,
}


class Network(nn.Module):
    """Sparse features -> `hidden` ReLU -> one logit per label."""

    def __init__(self, n_features, hidden, label_counts, n_samples):
        super().__init__()
        self.features = nn.EmbeddingBag(n_features, hidden, mode="sum", sparse=True)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.labels = nn.Linear(hidden, len(label_counts))
        # As the network of slide starts: output biases at the labels' log-odds.
        nn.init.uniform_(self.features.weight, -FIRST, FIRST)
        nn.init.xavier_uniform_(self.labels.weight)
        counts = torch.as_tensor(label_counts, dtype=torch.float32)
        self.labels.bias.data = torch.log((counts + 1) / (n_samples - counts + 1))

    def forward(self, columns, offsets, values):
        hidden = self.features(columns, offsets, per_sample_weights=values)
        return self.labels(torch.relu(hidden + self.bias))


def inputs(x):
    """The tensors of some CSR rows: columns, where each row starts, values."""
    return (
        torch.from_numpy(x.indices.astype(np.int64)),
        torch.from_numpy(x.indptr[:-1].astype(np.int64)),
        torch.from_numpy(x.data),
    )


def targets(y):
    """The labels of some rows: row, label, and weight (1 / number of the row's labels)."""
    counts = np.diff(y.indptr)
    return (
        torch.from_numpy(np.repeat(np.arange(y.shape[0]), counts)),
        torch.from_numpy(y.indices.astype(np.int64)),
        torch.from_numpy(np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)),
    )


def batches(x, y, batch_size, order):
    """All batches of an epoch as tensors."""
    parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return [(inputs(x[rows]), targets(y[rows])) for rows in parts]


def train_epoch(network, optimizers, loss_function, epoch_batches):
    """One pass over the batches. Returns the mean loss."""
    total = 0.0
    for features, labels in epoch_batches:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_function(network(*features), *labels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        total += loss.item()
    return total / len(epoch_batches)


@torch.inference_mode()
def top_labels(network, x, batch_size, k=5):
    """The `k` labels with the largest logits of each row, best first."""
    top = [
        network(*inputs(x[start : start + batch_size])).topk(k, dim=1).indices.numpy()
        for start in range(0, x.shape[0], batch_size)
    ]
    return np.concatenate(top)


def evaluate(network, x, y, batch_size):
    """P@1, P@3, P@5, in per cent."""
    return precision(y, top_labels(network, x, batch_size))


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--data", required=True, help="npz file with the data set")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--batch-size", type=int, default=256)
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--learning-rate", type=float, default=2e-3)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--adam", choices=ADAM, default="fused", help="of the output layer")
    options.add_argument("--loss", choices=LOSSES, default="log-softmax")
    options = options.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    shuffle = np.random.default_rng(options.seed)
    x_train, y_train, x_test, y_test = load_set(options.data)
    label_counts = np.bincount(y_train.indices, minlength=y_train.shape[1])
    network = Network(x_train.shape[1], options.hidden, label_counts, x_train.shape[0])
    sparse = [network.features.weight]
    dense = [network.bias, *network.labels.parameters()]
    optimizers = [
        torch.optim.SparseAdam(sparse, lr=options.learning_rate),
        torch.optim.Adam(dense, lr=options.learning_rate, **ADAM[options.adam]),
    ]
    emit("start", versions=versions("torch"))
    for epoch in range(options.epochs):
        order = shuffle.permutation(x_train.shape[0])
        epoch_batches = batches(x_train, y_train, options.batch_size, order)
        start = time.perf_counter()
        loss = train_epoch(network, optimizers, LOSSES[options.loss], epoch_batches)
        seconds = time.perf_counter() - start
        emit(
            "epoch",
            epoch=epoch + 1,
            seconds=round(seconds, 4),
            loss=loss,
            active_fraction=1.0,
            precision=evaluate(network, x_test, y_test, options.batch_size),
            recall_at_10=1.0,
        )
    emit("end", peak_rss_mb=round(peak_rss_mb(), 1))


if __name__ == "__main__":
    main()
