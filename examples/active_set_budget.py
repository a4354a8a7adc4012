"""
How many neurons are enough?
============================

The same network is trained with different samplers and budgets. The figure shows what each run
has learned against the share of output neurons that it computed.

Retrieval finds the neurons that matter for a sample. Random neurons alone need a larger share to
learn as much.
"""

import time

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, PercentFormatter

import slide
from slide import hashing, sampling

N_TRAIN, N_TEST, EPOCHS = 16_000, 3_000, 3  # a part of the set, to take seconds

wordnet = slide.data.load_wordnet()
x, y = wordnet.X_train[:N_TRAIN], wordnet.Y_train[:N_TRAIN]
x_test, y_test = wordnet.X_test[:N_TEST], wordnet.Y_test[:N_TEST]


def run(sampler):
    """Return the fraction of neurons computed, P@1 on the test rows, and the seconds."""
    model = slide.Sequential(
        [
            slide.Input(x.shape[1]),
            slide.Dense(
                128,
                activation="relu",
                kernel_initializer=slide.initializers.RandomUniform(-0.1, 0.1),
            ),
            slide.Dense(
                y.shape[1],
                activation="softmax",
                sampler=sampler,
                bias_initializer="label_log_odds",
            ),
        ]
    )
    model.compile(optimizer=slide.optimizers.Adam(4e-3), metrics=["P@1"])
    started = time.perf_counter()
    history = model.fit(x, y, epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - started
    precision = model.evaluate(x_test, y_test)["precision@1"]
    return history.history["active_fraction"][-1], precision, seconds


# %%
# A mixture divides its budget between retrieved, frequent and random neurons; drawn neurons are
# retrieved and random at once.


def mixture(budget):
    return sampling.Mixture(
        [
            sampling.LSH(hashing.Clusters(), max_active=budget // 2),
            sampling.Frequent(budget // 4),
            sampling.Uniform(budget // 4, shared=False),
        ]
    )


def drawn(budget):
    return sampling.LSH(hashing.Sketches(), max_active=budget, correction="logq")


curves = {
    "drawn by activation": drawn,
    "retrieved, frequent and random": mixture,
    "random, corrected": sampling.Uniform,
}
figure, axes = plt.subplots(figsize=(7, 4.5))
for (name, make), marker in zip(curves.items(), "Dos", strict=True):
    fractions, precisions = [], []
    for budget in (100, 400, 1000):
        fraction, precision, seconds = run(make(budget))
        print(f"{name}, {budget}: {fraction:.1%} computed, P@1 {precision:.1%}, {seconds:.1f} s")
        fractions.append(fraction)
        precisions.append(precision)
    axes.plot(fractions, precisions, marker=marker, label=name)

fraction, precision, seconds = run(None)
print(f"all neurons: {fraction:.1%} computed, P@1 {precision:.1%}, {seconds:.1f} s")
axes.axhline(precision, color="gray", linestyle="--", label="all neurons")
axes.set_xscale("log")
axes.set_xticks([0.01, 0.02, 0.04, 0.08])
axes.xaxis.set_minor_formatter(NullFormatter())
axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes.set_xlabel("share of the output neurons computed for a sample")
axes.set_ylabel(f"P@1 after {EPOCHS} epochs")
axes.legend()
figure.tight_layout()
figure.savefig("active_set_budget.png", dpi=120)
