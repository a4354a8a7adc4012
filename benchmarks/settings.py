"""How well WordNet's 13,043 labels are learned with some learning rates, first layers and biases.

    python benchmarks/settings.py --markdown settings.md

The networks train one after another, in this process: nothing is timed.
"""

import argparse

import _common
import _sets

from slide import sampling

DEFAULTS = {"learning_rate": 1e-3, "first": None, "biases": "zeros"}
SETTINGS = (
    ("auto", DEFAULTS),
    ("auto", {**DEFAULTS, "learning_rate": 2e-3}),
    ("auto", {"learning_rate": 2e-3, "first": _common.FIRST, "biases": "label_log_odds"}),
    ("auto", {"learning_rate": 8e-3, "first": _common.FIRST, "biases": "label_log_odds"}),
    ("LSH(max_active=0.02)", DEFAULTS),
)
SAMPLERS = {
    "auto": lambda: "auto",
    "LSH(max_active=0.02)": lambda: sampling.LSH(max_active=0.02),
}
SHOWN = (1, 3, 5)


def precisions(data, sampler, setting, seed, options):
    """P@1 on the test points after every epoch, in per cent."""
    x_train, y_train, x_test, y_test = data
    model = _common.slide_model(
        x_train.shape[1],
        y_train.shape[1],
        SAMPLERS[sampler](),
        hidden=options.hidden,
        seed=seed,
        **setting,
    )
    found = []
    for _ in range(options.epochs):
        model.fit(x_train, y_train, verbose=0, n_jobs=options.threads)
        found.append(_common.slide_precision(model, x_test, y_test, options.threads)[0])
    return found


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--markdown", help="file for the table")
    options = options.parse_args()
    host = _common.loaded_machine()
    data = _sets.load("wordnet", folder=None)
    shown = [epoch for epoch in SHOWN if epoch <= options.epochs]
    header = ["sampler", "learning rate of Adam", "first layer", "biases of the outputs"]
    header += [f"P@1, epoch {epoch}" for epoch in shown]
    rows = []
    for sampler, setting in SETTINGS:
        found = [precisions(data, sampler, setting, seed, options) for seed in range(options.seeds)]
        rows.append(
            [
                sampler,
                f"{setting['learning_rate']:g}",
                f"uniform, ±{setting['first']:g}" if setting["first"] else "Glorot",
                setting["biases"],
                *(f"{_common.mean(of[epoch - 1] for of in found):.1f}" for epoch in shown),
            ]
        )
    title = (
        f"P@1 on WordNet's test points, mean of {options.seeds} seeds: {options.hidden} hidden, "
        f"batch 256. 0.001, Glorot and zeros are the defaults."
    )
    table = _common.markdown_table(header, rows, f"{title} {_common.where(host)}")
    _common.publish(table, [], options.markdown)


if __name__ == "__main__":
    main()
