"""scikit-learn's MLPClassifier: the same widths, Adam, and one sigmoid per label.

Where points have one label each it is a softmax instead. Its targets are a dense matrix, and its
Adam moves all weights, those of features without a value too: sets of more than `CELLS` cells
(training points times labels) are refused. Weights start as scikit-learn starts them.
"""

import sys

import numpy as np
from _peer import TOP, Clock, Set, end, epoch_done, parse, start
from sklearn.neural_network import MLPClassifier

CELLS = 100_000_000
BLOCK = 512


def refusal(n_points, n_labels):
    """Why a set is refused, or None."""
    if n_points * n_labels <= CELLS:
        return None
    return (
        f"refused: dense targets of {n_points:,} x {n_labels:,} = {n_points * n_labels:,} cells, "
        f"more than {CELLS:,}"
    )


def top_labels(model, x):
    """The labels with the largest probabilities of each row, best first."""
    lists = []
    for first in range(0, x.shape[0], BLOCK):
        scores = np.asarray(model.predict_proba(x[first : first + BLOCK]))
        best = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        lists.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(lists)


def main():
    options = parse(__doc__)
    data = Set(options.data)
    n, n_labels = data.y_train.shape
    why = refusal(n, n_labels)
    if why:
        sys.exit(why)
    start("scikit-learn")
    if (np.diff(data.y_train.indptr) == 1).all():
        targets = data.y_train.indices
    else:
        # In smaller integers scikit-learn's own numbers of the labels would overflow.
        targets = data.y_train.toarray().astype(np.int64)
    model = MLPClassifier(
        (options.hidden,),
        alpha=0.0,
        batch_size=options.batch_size,
        learning_rate_init=options.learning_rate,
        random_state=options.seed,
    )
    for epoch in range(options.epochs):
        with Clock() as clock:
            model.partial_fit(data.x_train, targets, classes=np.arange(n_labels))
        scores = data.scores(top_labels(model, data.x_test))
        epoch_done(epoch + 1, clock, scores, samples=n, loss=float(model.loss_))
    end()


if __name__ == "__main__":
    main()
