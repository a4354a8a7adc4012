"""
Hidden layers that compute a twentieth of their neurons
=======================================================

A network of two hidden layers of 500 neurons tells tall rectangles from wide ones. It is trained
with all neurons, and with five ways to compute 5% of them. The figure shows what each has learned
against the multiplications it took.

Looking at every activation before choosing (winner take all, adaptive dropout) learns well, but
saves little. Hash tables find nearly the same neurons without looking.
"""

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, PercentFormatter

import slide
from slide import hashing, sampling

x, y = slide.data.make_rectangles(6_000, seed=0)
x_test, y_test = slide.data.make_rectangles(3_000, seed=1)
EPOCHS, FRACTION = 8, 0.05

SAMPLERS = {
    "all neurons": None,
    "random (dropout)": sampling.Uniform(FRACTION),
    "adaptive dropout": sampling.Standout(FRACTION),
    "winner take all": sampling.WinnerTakeAll(FRACTION),
    "tables, random projections": sampling.LSH(
        hashing.SimHash(6, 5, transform="sign_alsh", n_probes=10), max_active=FRACTION
    ),
    "tables, principal projections": sampling.LSH(
        hashing.SimHash(6, 5, projection="principal", n_probes=16), max_active=FRACTION
    ),
}


def run(sampler):
    """Return multiplications, as a share of those of all neurons, and the test accuracy."""
    hidden = [
        slide.Dense(500, "relu", sampler=sampler, kernel_initializer="he_normal") for _ in range(2)
    ]
    model = slide.Sequential(
        [slide.Input(784, sparse=False), *hidden, slide.Dense(2, activation="softmax")]
    )
    optimizer = slide.optimizers.Adagrad(0.01, momentum=0.5, initial_accumulator_value=1e-8)
    model.compile(optimizer, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=64, epochs=EPOCHS, verbose=0)
    accuracy = model.evaluate(x_test, y_test)["accuracy"]
    return history.history["multiplications"][-1], accuracy, model


figure, axes = plt.subplots(figsize=(7, 4.5))
for (name, sampler), marker in zip(SAMPLERS.items(), "svD^Po", strict=True):
    share, accuracy, model = run(sampler)
    print(f"{name}: {share:.1%} of the multiplications, {accuracy:.1%} right")
    axes.plot(share, accuracy, marker, label=name, markersize=8)

# %%
# Where a network's multiplications go is part of its summary.

model.summary()

axes.set_xscale("log")
axes.xaxis.set_minor_formatter(NullFormatter())
axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes.set_xlabel("multiplications in training, of those of all neurons")
axes.set_ylabel(f"test accuracy after {EPOCHS} epochs")
axes.legend(fontsize=8)
figure.tight_layout()
figure.savefig("sparse_hidden_layers.png", dpi=120)
