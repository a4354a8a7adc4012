"""
A reverse dictionary
====================

A network reads a definition and names the categories it belongs to, out of 13,043. It learns from
the definitions of WordNet, which come with the package, and then reads some of ours.
"""

import slide

# %%
# The data
# --------
# A row of ``X_train`` holds the words of a definition, and pairs of words, as numbers. A row of
# ``Y_train`` has a 1 for each category of what is defined.

wordnet = slide.data.load_wordnet()
print(wordnet)

# %%
# The network
# -----------
# One hidden layer, and one output for each category. The sampler decides which of the outputs are
# computed for a definition while the network learns.

model = slide.Sequential(
    [
        slide.Input(wordnet.X_train.shape[1]),
        slide.Dense(
            128,
            activation="relu",
            kernel_initializer=slide.initializers.RandomUniform(-0.1, 0.1),
        ),
        slide.Dense(
            wordnet.Y_train.shape[1],
            activation="softmax",
            sampler="auto",
            bias_initializer="label_log_odds",
        ),
    ]
)
model.compile(optimizer=slide.optimizers.Adam(2e-3), metrics=["P@1", "P@5"])
model.summary()

# %%
# Training
# --------
# Three epochs give a rough model; eight give a good one.

history = model.fit(wordnet.X_train, wordnet.Y_train, batch_size=256, epochs=3, verbose=2)
fraction = history.history["active_fraction"][-1]
print(f"computed {fraction:.1%} of the output neurons for a definition")

# %%
# Evaluation
# ----------
# On definitions that the network has never seen, and over all output neurons.

for name, value in model.evaluate(wordnet.X_test, wordnet.Y_test).items():
    print(f"{name:12} {value:.4f}")

# %%
# Use
# ---
# ``vectorize`` turns words into a row as the training rows were made.

definitions = [
    "a large wild cat with a striped coat",
    "a vehicle that flies through the air and carries passengers",
    "to move quickly on foot",
]
ids, scores = model.predict(wordnet.vectorize(definitions), top_k=4)
for definition, labels, row in zip(definitions, ids, scores, strict=True):
    print(f"\n{definition}")
    for label, score in zip(labels, row, strict=True):
        print(f"  {score:.3f}  {wordnet.label(label)}: {wordnet.gloss(label)[:60]}")

# %%
# The file
# --------
# A saved model holds everything: weights, the optimizer's state and the hash tables. Training goes
# on after loading as if it had not stopped.

model.save("reverse_dictionary.slide")
same = slide.load("reverse_dictionary.slide")
print(f"\nsaved and loaded: {same.epochs_trained} epochs, {same.step} steps")
