"""slide, as it is recommended or as SLIDE was published.

- ``--mode auto``: the default sampler of an output layer.
- ``--mode lazy``: the same with lazy Adam, which is PyTorch's SparseAdam.
- ``--mode bfloat16``: lazy Adam with moments in bfloat16.
- ``--mode fast``: the mixture that wider layers have by default.
- ``--mode shared``: 150 retrieved neurons of every sample's own and 1,000 random ones that the
  samples of a batch share, as the negatives of sampled softmax.
- ``--mode one-vs-all``: the same with a sigmoid per label.
- ``--mode published``: the algorithm of Chen et al. (MLSys 2020) and its code, step by step. The
  active neurons of a sample are its labels, the union of the buckets of its hidden activations in
  all L tables, and random neurons up to 1,000 (or a tenth of a small layer); nothing is
  corrected; the tables are rebuilt after 50 steps and then less and less often; Adam passes over
  all weights after every batch. README.md says what differs from the publication.
- ``--mode deferred``: the same with Adam as slide has it, which makes the moves of a row that no
  sample of a batch has touched when the row is next needed: the same weights, with less work.
"""

from _peer import TOP, Clock, Set, emit, end, epoch_done, parse, speed, start

# isort: split
from _common import FIRST

import slide
from slide import hashing, sampling

FILL = 1000
TABLES = 50
BUCKET = 128
"""Neurons that a published bucket holds at most: a union has no more than TABLES * BUCKET."""


def published_sampler(n_labels):
    """The published choice of active neurons for a layer of that size."""
    # The publication's settings: SimHash with K = 9 on 205,443 labels, and DWTA with K = 6 (in its
    # code) on 670,091; L = 50 for both.
    if n_labels > 400_000:
        family = hashing.DWTA(n_functions=6, n_tables=TABLES)
    else:
        family = hashing.SimHash(n_bits=9, n_tables=TABLES, projection="sparse")
    return sampling.LSH(
        family,
        max_active=min(n_labels, TABLES * BUCKET),
        min_active=min(FILL, max(1, n_labels // 10)),
        rebuild_every=50,
        rebuild_decay=0.1,
    )


class DenseAdam(slide.callbacks.Callback):
    """Makes Adam's moves of all rows after every batch."""

    def __init__(self, n_threads):
        super().__init__()
        self.n_threads = n_threads

    def on_train_batch_end(self, batch, logs=None):
        self.model._settle(self.n_threads)


def build(options, n_features, n_labels):
    """The compiled network."""
    biases = options.biases or "label_log_odds"
    if options.mode in ("published", "deferred"):
        sampler, biases = published_sampler(n_labels), options.biases or "zeros"
    elif options.mode == "shared":
        few, shared = min(150, max(1, n_labels // 4)), min(FILL, max(1, n_labels // 2))
        retrieved = sampling.LSH("clusters", max_active=few)
        sampler = sampling.Mixture([retrieved, sampling.Uniform(shared)])
    else:
        sampler = sampling.Auto(fast=options.mode in ("fast", "one-vs-all"))
    activation, loss = "softmax", "categorical_crossentropy"
    if options.mode == "one-vs-all":
        activation, loss = "sigmoid", "binary_crossentropy"
    uniform = slide.initializers.RandomUniform(-FIRST, FIRST)
    model = slide.Sequential(
        [
            slide.Input(n_features),
            slide.Dense(options.hidden, activation="relu", kernel_initializer=uniform),
            slide.Dense(n_labels, activation=activation, sampler=sampler, bias_initializer=biases),
        ],
        seed=options.seed,
    )
    optimizer = slide.optimizers.Adam(
        options.learning_rate,
        moments="bfloat16" if options.mode == "bfloat16" else "float32",
        lazy=options.mode in ("lazy", "bfloat16"),
    )
    # What comes after every batch needs to be called after every batch.
    model.compile(
        optimizer,
        loss,
        steps_per_execution=1 if options.mode == "published" else "auto",
    )
    # As PyTorch's weights, these are made before the clock starts.
    model.build(sparse=True)
    return model


def main():
    options = parse(__doc__, mode="auto", biases=None)
    data = Set(options.data)
    start("slide-learn")
    model = build(options, data.x_train.shape[1], data.y_train.shape[1])
    fit = {"batch_size": options.batch_size, "verbose": 0, "n_jobs": options.threads}
    if options.mode == "published":
        fit["callbacks"] = [DenseAdam(options.threads)]
    if options.steps or options.warm_up:
        with Clock() as clock:
            model.fit(data.x_train, data.y_train, steps_per_epoch=1, **fit)
        emit("setup", seconds=clock.seconds)
    if options.steps:
        n = min(options.steps * options.batch_size, data.x_train.shape[0])
        with Clock() as clock:
            history = model.fit(*data.limited(n), **fit).history
        speed(n, clock, active_fraction=float(history["active_fraction"][-1]))
        return end()
    for epoch in range(options.epochs):
        # The time is that of the whole call: checks, shuffling, hash tables and all.
        with Clock() as clock:
            history = model.fit(
                data.x_train, data.y_train, initial_epoch=epoch, epochs=epoch + 1, **fit
            ).history
        ids, _ = model.predict(data.x_test, top_k=TOP, n_jobs=options.threads)
        epoch_done(
            epoch + 1,
            clock,
            data.scores(ids),
            samples=data.x_train.shape[0],
            loss=float(history["loss"][-1]),
            active_fraction=float(history["active_fraction"][-1]),
        )
    return end()


if __name__ == "__main__":
    main()
