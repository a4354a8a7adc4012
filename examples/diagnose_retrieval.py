"""
Is the retrieval good?
======================

An output layer with hash tables learns from the neurons that the tables return. Whether these are
the ones with the largest activations cannot be seen from the loss: it is computed on what was
retrieved. ``model.diagnose`` computes all neurons for some rows and compares.

Here a layer has tables of too many bits for their number, and then the recommended sampler.
"""

import slide
from slide import hashing, sampling

wordnet = slide.data.load_wordnet()
x, y = wordnet.X_train[:8000], wordnet.Y_train[:8000]
x_test, y_test = wordnet.X_test[:1000], wordnet.Y_test[:1000]


def train(sampler, epochs=2):
    """Return a trained model and what was recorded while it trained."""
    model = slide.Sequential(
        [
            slide.Input(x.shape[1]),
            slide.Dense(64, activation="relu"),
            slide.Dense(y.shape[1], activation="softmax", sampler=sampler, name="output"),
        ],
        seed=1,
    )
    model.compile(optimizer=slide.optimizers.Adam(4e-3))
    telemetry = slide.callbacks.Telemetry(every=10)
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[telemetry])
    return model, telemetry


# %%
# Two tables of 14 bits. Half of the buckets are empty, the others hold a neuron or two, and inputs
# find none.

model, telemetry = train(sampling.LSH(hashing.SimHash(n_bits=14, n_tables=2), max_active=400))
print(model.diagnose(x_test, y_test))

# %%
# ``"auto"`` scores all neurons of a layer of this size by sketches of their weights, and draws 2%
# of them, at most 256.

model, telemetry = train("auto")
print()
print(model.diagnose(x_test, y_test))

# %%
# The callback recorded the same while the network trained.

telemetry.plot("diagnose_retrieval.png")
recall = [round(record["recall"], 2) for record in telemetry.records]
print(f"\nrecall@10 on inputs of training, every 10 steps: {recall}")
