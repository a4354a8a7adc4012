"""napkinXC (a probabilistic label tree of linear classifiers) with its default settings.

It trains on the sparse features themselves and has no epochs: one fit is one point of the figure.
The fit includes writing the model to disk, from where predictions load it.
"""

import tempfile

import numpy as np
from _peer import TOP, Clock, Set, end, epoch_done, padded, parse, start
from napkinxc.models import PLT


def label_lists(y):
    """The labels of each row."""
    return [row.tolist() for row in np.split(y.indices, y.indptr[1:-1])]


def main():
    options = parse(__doc__)
    data = Set(options.data)
    labels = label_lists(data.y_train)
    start("napkinxc")
    with tempfile.TemporaryDirectory() as folder:
        model = PLT(folder, threads=options.threads, seed=options.seed)
        with Clock() as clock:
            model.fit(data.x_train, labels)
        ids = padded(model.predict(data.x_test, top_k=TOP))
    epoch_done(1, clock, data.scores(ids), samples=data.x_train.shape[0])
    end()


if __name__ == "__main__":
    main()
