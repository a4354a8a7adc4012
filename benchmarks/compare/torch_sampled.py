"""PyTorch with sampled softmax (Jean et al., ACL 2015), only the rows that a batch needs.

- All samples of a batch share `--negatives` random labels, so that their logits are one matrix
  product. They are drawn with replacement from the proposal q; a label drawn c times of m is
  computed once and gets ``log c - log(m q)`` added to its logit, which is the same as c terms.
- The proposals are ``uniform``, ``log-uniform`` (rank r of the labels by frequency has
  ``log((r + 2) / (r + 1)) / log(n + 1)``) and ``counts`` (training points of a label, plus one).
- A sample's labels are in its sum with weight one, and are left out of its negatives (accidental
  hits); the target is spread over them.
- Both weight matrices have sparse gradients and `SparseAdam`, so that no step depends on the
  number of labels.
"""

import numpy as np
import torch
from _peer import Set, parse
from torch import nn
from torch_loop import prepare, run

# isort: split
from _common import FIRST


def proposal(kind, counts):
    """Probabilities of the labels."""
    n = len(counts)
    if kind == "uniform":
        return np.full(n, 1 / n)
    if kind == "counts":
        return (counts + 1) / (counts + 1).sum()
    if kind == "log-uniform":
        ranks = np.empty(n)
        ranks[np.argsort(-counts, kind="stable")] = np.arange(n)
        return np.log((ranks + 2) / (ranks + 1)) / np.log(n + 1)
    raise ValueError(f"proposal {kind!r} is none of uniform, log-uniform, counts")


class Sampled(nn.Module):
    """Sparse features -> `hidden` ReLU -> logits of some labels."""

    def __init__(self, n_features, hidden, counts, n_samples):
        super().__init__()
        self.features = nn.EmbeddingBag(n_features, hidden, mode="sum", sparse=True)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.weights = nn.Embedding(len(counts), hidden, sparse=True)
        self.biases = nn.Embedding(len(counts), 1, sparse=True)
        # As the other networks start: output biases at the labels' log-odds.
        nn.init.uniform_(self.features.weight, -FIRST, FIRST)
        nn.init.xavier_uniform_(self.weights.weight)
        odds = np.log((counts + 1) / (n_samples - counts + 1))
        self.biases.weight.data = torch.from_numpy(odds.astype(np.float32))[:, None]

    def hidden(self, columns, offsets, values):
        """Activations of the first layer."""
        return torch.relu(self.features(columns, offsets, per_sample_weights=values) + self.bias)

    def forward(self, *features):
        """Logits of all labels."""
        return nn.functional.linear(
            self.hidden(*features), self.weights.weight, self.biases.weight[:, 0]
        )


class Negatives:
    """Draws the labels that a batch shares."""

    def __init__(self, kind, counts, m, seed):
        q = proposal(kind, counts)
        self.cumulative = np.cumsum(q)
        self.cumulative /= self.cumulative[-1]
        self.log_mq = np.log(m * q)
        self.m, self.rng = m, np.random.default_rng([seed, 1])
        self.place = torch.full((len(counts),), -1, dtype=torch.int64)

    def draw(self):
        """Different labels, and what is added to their logits."""
        u = self.rng.random(self.m)
        drawn = np.searchsorted(self.cumulative, u, side="right")
        labels, times = np.unique(np.minimum(drawn, len(self.place) - 1), return_counts=True)
        correction = np.log(times) - self.log_mq[labels]
        return torch.from_numpy(labels), torch.from_numpy(correction.astype(np.float32))

    def hits(self, negatives, rows, labels):
        """Rows and columns of the negatives' logits that are labels of the row."""
        self.place[negatives] = torch.arange(len(negatives))
        columns = self.place[labels]
        self.place[negatives] = -1
        found = columns >= 0
        return rows[found], columns[found]


def sampled_loss(network, features, targets, negatives):
    """Cross entropy against sparse targets, the sum over all labels estimated.

    Parameters
    ----------
    network : Sampled
    features, targets : tuple of Tensor
        Of one batch, from `torch_dense.batches`.
    negatives : Negatives
    """
    rows, labels, weights = targets
    hidden = network.hidden(*features)
    n = hidden.shape[0]
    drawn, correction = negatives.draw()
    # One look-up for labels and negatives together: one sparse gradient.
    vectors = network.weights(torch.cat([labels, drawn]))
    biases = network.biases(torch.cat([labels, drawn]))[:, 0]
    p = len(labels)
    positive = (hidden[rows] * vectors[:p]).sum(dim=1) + biases[:p]
    negative = torch.addmm(biases[p:] + correction, hidden, vectors[p:].T)
    negative = negative.index_put(
        negatives.hits(drawn, rows, labels), torch.tensor(-torch.inf), accumulate=False
    )
    # The labels of each sample side by side; what is left over counts nothing.
    counts = torch.bincount(rows, minlength=n)
    place = torch.arange(p) - (torch.cumsum(counts, 0) - counts)[rows]
    own = torch.full((n, int(counts.max()) if p else 1), -torch.inf)
    own = own.index_put((rows, place), positive)
    log_sum = torch.logsumexp(torch.cat([negative, own], dim=1), dim=1)
    return ((log_sum[rows] - positive) * weights).sum() / n


def main():
    options = parse(__doc__, proposal="log-uniform", negatives=1000)
    prepare(options)
    data = Set(options.data)
    counts = np.bincount(data.y_train.indices, minlength=data.y_train.shape[1])
    network = Sampled(data.x_train.shape[1], options.hidden, counts, data.x_train.shape[0])
    negatives = Negatives(options.proposal, counts, options.negatives, options.seed)
    sparse = [network.features.weight, network.weights.weight, network.biases.weight]
    optimizers = [
        torch.optim.SparseAdam(sparse, lr=options.learning_rate),
        torch.optim.Adam([network.bias], lr=options.learning_rate, fused=True),
    ]

    def step(features, labels):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = sampled_loss(network, features, labels, negatives)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    run(options, data, network, step)


if __name__ == "__main__":
    main()
