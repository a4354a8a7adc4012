"""A model in training whose steps are timed phase by phase."""

import numpy as np
from _common import slide_model

from slide.telemetry import phase_seconds

LOGIT = 8.0
LAYER_UPDATE, WHOLE = 8, 10  # columns of the kernels' clocks


class Trained:
    """A model of one hidden layer after some training.

    Parameters
    ----------
    x, y : csr_matrix
        Features and labels.
    sampler : Sampler or "auto"
        Of the output layer.
    hidden, batch_size, n_threads : int
    warm_up : int
        Samples to train on before anything is timed.
    learning_rate : float
    prototypes : csr_matrix of shape (outputs, features), optional
        Every output's weights start along the hidden activations of its row, as if it had been
        learned: in a short training the frequent labels alone would be retrieved, the same for
        all points.
    """

    def __init__(
        self,
        x,
        y,
        sampler,
        *,
        hidden,
        batch_size,
        n_threads,
        warm_up,
        learning_rate=2e-3,
        prototypes=None,
        seed=0,
    ):
        self.x, self.y, self.batch_size, self.n_threads = x, y, batch_size, n_threads
        self.model = slide_model(
            x.shape[1], y.shape[1], sampler, hidden=hidden, learning_rate=learning_rate, seed=seed
        )
        if prototypes is not None:
            self._plant(prototypes)
        self.fit(1)
        self._touch_state()
        self.fit(max(1, warm_up // batch_size))

    @property
    def active_set(self):
        return self.model._network.layers[-1].active_set

    def fit(self, n_batches):
        """Train; return seconds a sample as the kernels count them, maintenance included."""
        network = self.model._network
        before = 0 if network is None else network.seconds_forward + network.seconds_update
        self.model.fit(
            self.x,
            self.y,
            batch_size=self.batch_size,
            steps_per_epoch=n_batches,
            verbose=0,
            n_jobs=self.n_threads,
        )
        network = self.model._network
        n = min(n_batches * self.batch_size, self.x.shape[0])
        return (network.seconds_forward + network.seconds_update - before) / n

    def _touch_state(self):
        """Put the optimizer's state into memory, as every row's first step would: in a short run
        the first use of a page costs more than the training."""
        for kernel in self.model._network.layers:
            for array in (kernel.params.slots, kernel.params.state):
                array += 0

    def _plant(self, prototypes):
        self.model.build(sparse=True)
        below, output = self.model.layers
        features = below._kernel_view
        center = np.maximum(self.x[:4096] @ features, 0).mean(axis=0)
        for first in range(0, output.units, 1 << 16):
            rows = output._kernel_view[first : first + (1 << 16)]
            rows[:] = np.maximum(prototypes[first : first + (1 << 16)] @ features, 0) - center
            # A point that looks like the prototype has a logit of LOGIT more than others.
            rows *= LOGIT / np.square(rows).sum(axis=1).mean()

    def times(self, n_batches, seed):
        """Train on batches; what the kernels' own clocks say about it.

        Returns
        -------
        seconds : dict of float
            By phase, a sample; without rebuilds of the tables.
        counts : dict of float
            A sample: "rows" (its own output neurons), "distinct" (of these, different ones of a
            batch over its size), "nnz" and "features" (the same of the features), "hashed"
            (multiplications of hash functions), "rebuild_seconds"; and "n_shared". All but
            "hashed" and "rebuild_seconds" are of one batch.
        """
        model, n = self.model, n_batches * self.batch_size
        hashed = self.active_set.hashed()
        self.fit(n_batches)
        clocks = model._clocks
        seconds = phase_seconds(clocks)[-1]
        rebuild = seconds.pop("rebuild")
        seconds["below: update"] = clocks[0, LAYER_UPDATE]
        seconds["rest"] = clocks[0, WHOLE] - rebuild - sum(seconds.values())
        counts = self._count(np.random.default_rng(seed))
        counts["hashed"] = (self.active_set.hashed() - hashed) / n
        counts["rebuild_seconds"] = rebuild / n
        return {name: value / n for name, value in seconds.items()}, counts

    def _count(self, rng):
        size = self.batch_size
        batch = rng.choice(self.x.shape[0], size, replace=False)
        x, y = self.x[batch], self.y[batch]
        weights, bias = self.model.get_weights()[:2]
        kernel = self.model._network.layers[-1]
        inputs = np.zeros((size, kernel.params.weights.shape[1]), np.float32)
        inputs[:, : len(bias)] = np.maximum(x @ weights + bias, 0)
        inputs[:, len(bias)] = 1
        labels = [y.indices[y.indptr[i] : y.indptr[i + 1]] for i in range(size)]
        shared, _, own = self.active_set.select_batch(
            kernel.params, inputs, labels, seed=1, step=self.model.step
        )
        ids = np.concatenate([ids for ids, _ in own])
        return {
            "rows": len(ids) / size,
            "distinct": len(np.unique(ids)) / size,
            "nnz": x.nnz / size,
            "features": len(np.unique(x.indices)) / size,
            "n_shared": len(shared),
        }

    def rebuild(self):
        """Rebuild the tables after a change of all neurons; return its seconds. No training comes
        after it: the schedule of rebuilds is far ahead then."""
        params, active = self.model._network.layers[-1].params, self.active_set
        query = np.zeros((1, params.weights.shape[1]), np.float32)
        active.weights_moved()
        before = active.maintenance()["seconds"]
        active.select_batch(params, query, [[]], step=1 << 40, n_threads=self.n_threads)
        return active.maintenance()["seconds"] - before
