"""The same network with all neurons in PyTorch, as the worker of one run.

``torch_side.py JSON`` takes what `train.py` takes and prints what it prints. Data come through
`train.load`; batches are rows of tensors that are made before the clock starts.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from _common import emit, machine, versions  # noqa: E402
from grid import Config  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from train import load, stddev  # noqa: E402


class MomentumAdagrad(torch.optim.Optimizer):
    """``G += g^2; v = momentum v + lr g / (sqrt(G) + eps); w -= v``, over all tensors at once.

    torch.optim.Adagrad has no momentum.
    """

    def __init__(self, parameters, lr, momentum, initial, eps=1e-7):
        super().__init__(parameters, {})
        self.lr, self.momentum, self.eps = lr, momentum, eps
        self.weights = [p for group in self.param_groups for p in group["params"]]
        self.sums = [torch.full_like(w, initial) for w in self.weights]
        self.moves = [torch.zeros_like(w) for w in self.weights]

    @torch.no_grad()
    def step(self):
        gradients = [w.grad for w in self.weights]
        torch._foreach_addcmul_(self.sums, gradients, gradients)
        scales = torch._foreach_sqrt(self.sums)
        torch._foreach_add_(scales, self.eps)
        torch._foreach_mul_(self.moves, self.momentum)
        torch._foreach_addcdiv_(self.moves, gradients, scales, self.lr)
        torch._foreach_sub_(self.weights, self.moves)


def optimizer(name, network, config):
    """The optimizer of slide's side, or the fastest that PyTorch brings for the same rule."""
    parameters = list(network.parameters())
    initial = config.initial_accumulator_value
    if name == "momentum":
        return MomentumAdagrad(parameters, config.learning_rate, config.momentum, initial)
    return torch.optim.Adagrad(
        parameters,
        lr=config.learning_rate,
        initial_accumulator_value=initial,
        eps=1e-7,
        fused=True,
    )


def build(config, n_features, n_classes):
    """Linear and ReLU layers with the initial spread of slide's side."""
    layers, n_in = [], n_features
    for layer in range(config.depth):
        linear = nn.Linear(n_in, config.width)
        nn.init.normal_(linear.weight, std=stddev(config, layer, n_in))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
        n_in = config.width
    output = nn.Linear(n_in, n_classes)
    nn.init.xavier_uniform_(output.weight)
    nn.init.zeros_(output.bias)
    return nn.Sequential(*layers, output)


@torch.inference_mode()
def evaluate(network, x, y):
    """Accuracy in per cent, and mean loss."""
    logits = torch.cat([network(part) for part in x.split(1024)])
    loss = functional.cross_entropy(logits, y).item()
    return 100 * (logits.argmax(dim=1) == y).double().mean().item(), loss


def run(config, folder, optimizer_name):
    """As `train.run`, with all neurons whatever the method."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    parts = load(config.data, folder, config.samples, config.test_samples)
    x_train, x_test = (torch.from_numpy(np.ascontiguousarray(x)) for x in parts[::2])
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in parts[1::2])
    network = build(config, x_train.shape[1], int(max(y_train.max(), y_test.max())) + 1)
    step = optimizer(optimizer_name, network, config)
    weights = [p.numel() for p in network.parameters() if p.ndim == 2]
    # Forward, backward and update; nobody asks for the features' gradient.
    products = 3 * sum(weights) - weights[0]
    shuffle = np.random.default_rng(config.seed)
    epochs = []
    for epoch in range(config.epochs):
        order = torch.from_numpy(shuffle.permutation(len(x_train)))
        batches = [(x_train[rows], y_train[rows]) for rows in order.split(config.batch_size)]
        total = 0.0
        start = time.perf_counter()
        for x, y in batches:
            step.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(network(x), y)
            loss.backward()
            step.step()
            total += loss.item() * len(x)
        seconds = time.perf_counter() - start
        accuracy, test_loss = evaluate(network, x_test, y_test)
        epochs.append(
            {
                "epoch": epoch + 1,
                "accuracy": accuracy,
                "test_loss": test_loss,
                "loss": total / len(x_train),
                "seconds": seconds,
                "products": float(products),
                "multiplications": 1.0,
            }
        )
    return {
        "epochs": epochs,
        "active": [1.0] * config.depth,
        "samples": len(x_train),
        "overlap": [],
        "error": None,
        "machine": machine(),
        "versions": versions("torch"),
    }


def main():
    options = json.loads(sys.argv[1])
    fields = options["config"]
    fields["lsh"] = tuple(tuple(pair) for pair in fields["lsh"])
    emit("result", **run(Config(**fields), options["folder"], options["optimizer"]))


if __name__ == "__main__":
    main()
