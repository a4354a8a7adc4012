"""PyTorch with all output neurons: softmax (``--loss log-softmax``) or one-vs-all (``binary``)."""

import numpy as np
import torch
from _peer import Set, parse
from torch_loop import prepare, run

# isort: split
from torch_dense import ADAM, LOSSES, Network


def main():
    options = parse(__doc__, loss="log-softmax")
    prepare(options)
    data = Set(options.data)
    counts = np.bincount(data.y_train.indices, minlength=data.y_train.shape[1])
    network = Network(data.x_train.shape[1], options.hidden, counts, data.x_train.shape[0])
    optimizers = [
        torch.optim.SparseAdam([network.features.weight], lr=options.learning_rate),
        torch.optim.Adam(
            [network.bias, *network.labels.parameters()], lr=options.learning_rate, **ADAM["fused"]
        ),
    ]
    loss_function = LOSSES[options.loss]

    def step(features, labels):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_function(network(*features), *labels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    run(options, data, network, step)


if __name__ == "__main__":
    main()
