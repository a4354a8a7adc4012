"""The loops over batches and blocks of samples."""
cimport cython
from cpython.object cimport PyObject
from cython.parallel cimport prange
from libc.math cimport INFINITY, exp, log
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.activations cimport SOFTMAX, activate
from slide._kernels.index cimport Best, Searcher
from slide._kernels.layers cimport LayerKernel, SampledDense
from slide._kernels.losses cimport Weights
from slide._kernels.openmp cimport omp_get_thread_num, omp_get_wtime
from slide._kernels.sampling cimport ActiveSet
from slide._kernels.simd cimport simd
from slide._kernels.sparse cimport SparseDense
from slide._kernels.types cimport (
    BLOCK, Batch, Buffer, Costs, PerThread, SparseRows, is_timed, padded,
)

import numpy as np

cdef enum:
    TILE = 1024         # outputs whose logits a thread holds at a time in prediction
    RECENT = 32         # inputs of layers with tables that a call of `train` leaves to look at


cdef class Data:
    """Features and targets as the kernels read them; every array was checked by the caller.

    x : (indptr int64, indices int32, data float32) or a C-contiguous float32 array
    y : the same triple, or None for prediction

    The features and weights of samples are the caller's arrays, which may be written to between
    two calls of the kernels. What the kernels take for a place in memory must not change then:
    `indptr` and the targets are copies, and `check_ids` looks at the features' ids.
    """
    cdef readonly Py_ssize_t n, max_labels
    cdef readonly bint sparse
    cdef object _keep
    cdef Batch batch

    def __cinit__(self, x, y=None, sample_weight=None):
        cdef const int64_t[::1] indptr
        cdef const int32_t[::1] indices
        cdef const float[::1] values
        cdef const float[:, ::1] dense
        memset(&self.batch, 0, sizeof(Batch))
        self.sparse = isinstance(x, tuple)
        if self.sparse:
            x = np.array(x[0]), x[1], x[2]
        if y is not None:
            y = tuple([np.array(a) for a in y])
        self._keep = (x, y, sample_weight)
        if self.sparse:
            indptr, indices, values = x
            self.n = indptr.shape[0] - 1
            self.batch.x_indptr = &indptr[0]
            self.batch.x_indices = &indices[0] if indices.shape[0] else NULL
            self.batch.x_data = &values[0] if values.shape[0] else NULL
        else:
            dense = x
            self.n = dense.shape[0]
            self.batch.x_cols = dense.shape[1]
            self.batch.x_dense = &dense[0, 0] if self.n and dense.shape[1] else NULL
        if y is not None:
            indptr, indices, values = y
            if indptr.shape[0] != self.n + 1:
                raise ValueError(f"{indptr.shape[0] - 1} targets for {self.n} samples")
            self.batch.y_indptr = &indptr[0]
            self.batch.y_indices = &indices[0] if indices.shape[0] else NULL
            self.batch.y_data = &values[0] if values.shape[0] else NULL
            self.max_labels = np.diff(y[0]).max(initial=0)
        if sample_weight is not None:
            values = sample_weight
            if values.shape[0] != self.n:
                raise ValueError(f"{values.shape[0]} weights for {self.n} samples")
            self.batch.sample_weight = &values[0] if self.n else NULL

    def most_nonzeros(self, Py_ssize_t batch_size):
        """Bound of the non-zeros in any batch of that size."""
        if not self.sparse:
            return 0
        lengths = np.diff(self._keep[0][0])
        if batch_size < len(lengths):
            lengths = np.partition(lengths, len(lengths) - batch_size)[-batch_size:]
        return int(lengths.sum())

    cdef check_ids(self, const int64_t[::1] rows, Py_ssize_t n_features, int n_threads):
        """Refuses rows of sparse features with an id that is not in [0, n_features)."""
        cdef const int32_t *ids = self.batch.x_indices
        cdef uint32_t n = <uint32_t> n_features
        cdef Py_ssize_t i, row
        cdef int64_t j
        cdef int beyond = 0
        if not self.sparse:
            return
        for i in prange(rows.shape[0], nogil=True, schedule="static", num_threads=n_threads):
            # Without a branch, for the compiler's vectors; a negative id is a large one.
            for j in range(self.batch.x_indptr[rows[i]], self.batch.x_indptr[rows[i] + 1]):
                beyond += <uint32_t> ids[j] >= n
        if not beyond:
            return
        for i in range(rows.shape[0]):
            row = rows[i]
            for j in range(self.batch.x_indptr[row], self.batch.x_indptr[row + 1]):
                if not 0 <= ids[j] < n_features:
                    raise ValueError(
                        f"x.indices was written to after it was checked: row {row} has column "
                        f"{ids[j]}; it must be in [0, {n_features})")


@cython.final
cdef class Network:
    """The kernels of all layers, and one batch at a time through them.

    layers : list of LayerKernel, the first on the data
    """
    cdef readonly list layers
    cdef Buffer pointers, input_buffer, loss_buffer
    cdef PyObject **kernels
    cdef int n_layers
    cdef LayerKernel output
    cdef SampledDense sampled           # the output, if it has an active set
    cdef bint sparse, training
    cdef bint by_layer                  # a batch goes through the layers one by one, not in blocks
    cdef Py_ssize_t batch_size
    cdef int n_threads
    cdef float *x
    cdef Py_ssize_t ld_x
    cdef double *losses
    cdef double *bounds
    cdef PerThread tiles, tops, places, dense_inputs
    cdef Searcher searcher              # of a prediction, where the output has no tables
    cdef readonly double seconds_forward, seconds_update
    cdef Buffer update_buffer
    cdef double *updates                # seconds of each layer's updates, but for hogwild's
    cdef readonly object seconds        # in the last call of `train`: see `_clocks`
    cdef readonly object recent         # after `train`, by layer: see `_recent`

    def __init__(self, layers, bint sparse):
        self.layers, self.sparse, self.n_layers = list(layers), sparse, len(layers)
        self.pointers = Buffer(self.n_layers * sizeof(void *))
        self.kernels = <PyObject **> self.pointers.p
        for i, layer in enumerate(self.layers):
            self.kernels[i] = <PyObject *> (<LayerKernel?> layer)
        self.output = self.layers[self.n_layers - 1]
        self.sampled = self.output if isinstance(self.output, SampledDense) else None
        self.batch_size = 0
        self.update_buffer = Buffer(self.n_layers * sizeof(double))
        self.updates = <double *> self.update_buffer.p
        self.seconds, self.recent = None, [None] * self.n_layers

    def allocate(self, Data data, Py_ssize_t batch_size, int n_threads, bint training):
        """Buffers for the batches to come."""
        cdef LayerKernel layer, below = None
        cdef Py_ssize_t nonzeros = data.most_nonzeros(batch_size)
        if data.sparse != self.sparse:
            raise ValueError("features are sparse and the first layer is not, or the reverse")
        self.release()
        self.ld_x = padded((<LayerKernel> self.layers[0]).n_in + 1)
        if not self.sparse:
            self.input_buffer = Buffer(batch_size * self.ld_x * sizeof(float))
            self.x = <float *> self.input_buffer.p
        for layer in self.layers:
            layer.allocate(batch_size, n_threads, data.max_labels, nonzeros, training)
            if below is not None:
                layer.link(below)
            elif not self.sparse:
                layer.read(self.input_buffer)
            below = layer
        self.by_layer = (self.sampled is not None and self.sampled.by_row) or any(
            [isinstance(layer, SparseDense) for layer in self.layers])
        self.loss_buffer = Buffer(2 * batch_size * sizeof(double))
        self.losses = <double *> self.loss_buffer.p
        self.bounds = self.losses + batch_size
        self.batch_size, self.n_threads, self.training = batch_size, n_threads, training

    def release(self):
        """Frees the buffers."""
        for layer in self.layers:
            layer.release()
        self.input_buffer = self.loss_buffer = self.tiles = self.tops = self.places = None
        self.dense_inputs = self.searcher = None
        self.x = NULL
        self.batch_size = 0

    cdef void _read(self, Batch *b, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef Py_ssize_t s
        if not self.sparse:
            for s in range(first, last):
                memcpy(self.x + s * self.ld_x, b.x_dense + b.rows[s] * b.x_cols,
                       b.x_cols * sizeof(float))
                self.x[s * self.ld_x + b.x_cols] = (<LayerKernel> self.kernels[0]).use_bias

    cdef double _block(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                       int thread) noexcept nogil:
        """Forward and backward; returns a bound of the block's gradients."""
        cdef Py_ssize_t i
        cdef double bound = 0
        self._read(b, first, last)
        for i in range(self.n_layers - 1):
            (<LayerKernel> self.kernels[i]).forward(b, first, last, thread)
        if not self.output.score(b, first, last, self.losses, thread):
            return INFINITY
        for i in range(self.n_layers - 1, -1, -1):
            bound += (<LayerKernel> self.kernels[i]).backward(b, first, last, thread)
        return bound

    cdef double _by_layer(self, Batch *b) noexcept nogil:
        """Forward and backward of a whole batch; returns a bound of its gradients."""
        cdef Py_ssize_t k, i, n_blocks = (b.n + BLOCK - 1) // BLOCK
        cdef double bound = 0
        for k in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
            self._read(b, k * BLOCK, min(b.n, (k + 1) * BLOCK))
        for i in range(self.n_layers - 1):
            (<LayerKernel> self.kernels[i]).forward_batch(b)
        if not self.output.score_batch(b, self.losses):
            return INFINITY
        for i in range(self.n_layers - 1, -1, -1):
            bound += (<LayerKernel> self.kernels[i]).backward_batch(b)
        return bound

    cdef void _late(self, Batch *b) noexcept nogil:
        """One sample after the other, as `staleness` + 1 workers in turn: a gradient is applied
        when as many of later samples have been computed."""
        cdef Py_ssize_t k, late = min(b.staleness, b.n)
        for k in range(b.n + late):
            if k < b.n:
                self.bounds[k] = self._block(b, k, k + 1, 0)
            if k >= late and self.bounds[k - late] < 1e18:
                self._update_sample(b, k - late, 0, is_timed(self.output.cost(0), b.step))

    cdef void _sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        cdef bint timed = is_timed(self.output.cost(thread), b.step)
        self.bounds[s] = self._block(b, s, s + 1, thread)
        if self.bounds[s] < 1e18:
            self._update_sample(b, s, thread, timed)

    cdef void _update_sample(self, Batch *b, Py_ssize_t s, int thread, bint timed) noexcept nogil:
        cdef Py_ssize_t i
        cdef Costs *cost
        cdef double started
        for i in range(self.n_layers):
            if not timed:
                (<LayerKernel> self.kernels[i]).update_sample(b, s, thread)
                continue
            started = omp_get_wtime()
            (<LayerKernel> self.kernels[i]).update_sample(b, s, thread)
            cost = (<LayerKernel> self.kernels[i]).cost(thread)
            cost.step += omp_get_wtime() - started
            cost.stepped += 1

    cdef bint _train_batch(self, Batch *b) noexcept nogil:
        """One batch. False, and in batch mode nothing changed, if the loss or a gradient is not
        finite or so large that a step could overflow."""
        cdef Py_ssize_t k, i, n_blocks = (b.n + BLOCK - 1) // BLOCK
        cdef double started = omp_get_wtime(), bound = 0, now
        for i in range(self.n_layers):
            (<LayerKernel> self.kernels[i]).optimizer.tick(<double> (b.step - b.first_step))
            (<LayerKernel> self.kernels[i]).begin(b)
        if b.hogwild and b.staleness:
            self._late(b)
            n_blocks = b.n
        elif b.hogwild:
            for k in prange(b.n, schedule="dynamic", chunksize=8, num_threads=b.n_threads):
                self._sample(b, k, omp_get_thread_num())
            n_blocks = b.n
        elif self.by_layer:
            self.bounds[0], n_blocks = self._by_layer(b), 1
        else:
            for k in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
                self.bounds[k] = self._block(b, k * BLOCK, min(b.n, (k + 1) * BLOCK),
                                             omp_get_thread_num())
        for k in range(n_blocks):
            if not self.bounds[k] < 1e18:
                return False
            bound += self.bounds[k]
        self.seconds_forward += omp_get_wtime() - started
        if not bound < 1e18:
            return False
        if not b.hogwild:
            started = omp_get_wtime()
            for i in range(self.n_layers):
                (<LayerKernel> self.kernels[i]).update(b)
                now = omp_get_wtime()
                self.updates[i] += now - started
                self.seconds_update += now - started
                started = now
        for i in range(self.n_layers):
            (<LayerKernel> self.kernels[i]).finish(b)
        return True

    def train(self, Data data, const int64_t[::1] rows, const float[::1] learning_rates,
              uint64_t seed, uint64_t[::1] position, uint64_t first_step, bint hogwild,
              Py_ssize_t staleness=0):
        """Batches of batch_size rows, one learning rate each, with the GIL released.

        position[0] is the number of the first step, and goes on by one with each;
        first_step is the step at which the optimizer started.
        staleness : with hogwild, steps by which gradients are applied late, on one thread

        Returns (batches done, sum of losses, neurons computed by the output layer, multiplications
        as each layer counts them); fewer batches than asked mean that the next one diverged.
        """
        cdef Batch b = data.batch
        cdef Py_ssize_t n = rows.shape[0], k, s, done = 0
        cdef Py_ssize_t n_batches = (n + self.batch_size - 1) // self.batch_size
        cdef double loss = 0, computed = 0
        if self.batch_size == 0 or not self.training or data.batch.y_indptr == NULL:
            raise ValueError("not allocated for training, or no targets")
        if learning_rates.shape[0] != n_batches:
            raise ValueError(f"{learning_rates.shape[0]} learning rates for {n_batches} batches")
        if n and not 0 <= np.min(rows) <= np.max(rows) < data.n:
            raise ValueError("a row is out of range")
        data.check_ids(rows, self.layers[0].n_in, self.n_threads)
        b.seed, b.hogwild, b.n_threads = seed, hogwild, self.n_threads
        b.first_step, b.staleness = first_step, staleness
        before, clocks = self.multiplications(), self._clocks()
        for layer in self.layers:
            layer.count_debt()
        with nogil:
            for k in range(n_batches):
                b.rows = &rows[k * self.batch_size]
                b.n = min(self.batch_size, n - k * self.batch_size)
                b.step, b.lr = position[0], learning_rates[k]
                b.scale = 1 if hogwild else <float> (1.0 / b.n)
                if not self._train_batch(&b):
                    break
                for s in range(b.n):
                    loss += self.losses[s]
                    computed += self.output.computed(s)
                done += 1
                position[0] += 1
        self.seconds = self._clocks() - clocks
        self.recent = [self._recent(i, min(n, self.batch_size)) for i in range(self.n_layers)]
        return done, loss, computed, self.multiplications() - before

    def _clocks(self):
        """By layer: its `seconds`, those of updates of whole batches, of rebuilds, of all."""
        cdef Py_ssize_t i
        clocks = []
        for i in range(self.n_layers):
            active = self.retrieving(i)
            clocks.append([*self.layers[i].seconds(), self.updates[i],
                           0.0 if active is None else active.seconds,
                           self.seconds_forward + self.seconds_update])
        return np.array(clocks)

    def retrieving(self, Py_ssize_t layer):
        """The `ActiveSet` of a layer with tables, or None."""
        kernel = self.layers[layer]
        active = None
        if isinstance(kernel, SampledDense):
            active = (<SampledDense> kernel).active_set
        elif isinstance(kernel, SparseDense):
            active = getattr((<SparseDense> kernel).selector, "active", None)
        return None if active is None or (<ActiveSet> active).retriever is None else active

    def _recent(self, Py_ssize_t layer, Py_ssize_t n):
        """Inputs (at most RECENT, ld_in) of a layer with tables in the last batches of a call of
        `train`, of which the largest had n samples; None for other layers."""
        if self.retrieving(layer) is None:
            return None
        return self._inputs(layer, 0, min(n, <Py_ssize_t> RECENT))

    def _inputs(self, Py_ssize_t layer, Py_ssize_t first, Py_ssize_t last):
        """A layer's inputs in its buffers, as dense rows."""
        cdef LayerKernel kernel = self.layers[layer]
        cdef Py_ssize_t s, j, at
        x = np.zeros((last - first, kernel.ld_in), np.float32)
        cdef float[:, ::1] out = x
        for s in range(first, last):
            if kernel.given.ids == NULL:
                memcpy(&out[s - first, 0], kernel.x + s * kernel.ld_in,
                       kernel.ld_in * sizeof(float))
                continue
            at = s * kernel.given.capacity
            for j in range(at, at + kernel.given.count[s]):
                out[s - first, kernel.given.ids[j]] = kernel.given.val[j]
        return x

    def inputs(self, Data data, uint64_t seed=0):
        """By layer: inputs (data.n, ld_in) of those with tables as predictions compute them, else
        None. Tables are as they are: nothing is looked after."""
        cdef Batch b = data.batch
        cdef Py_ssize_t at = 0, i
        cdef int64_t[::1] rows = np.arange(data.n, dtype=np.int64)
        if self.batch_size == 0 or self.training:
            raise ValueError("not allocated for prediction")
        data.check_ids(rows, self.layers[0].n_in, self.n_threads)
        parts = [[] for _ in range(self.n_layers)]
        b.seed, b.n_threads = seed, self.n_threads
        while at < data.n:
            b.rows, b.n, b.step = &rows[at], min(self.batch_size, data.n - at), at
            with nogil:
                self._hidden(&b)
            for i in range(self.n_layers):
                if self.retrieving(i) is not None:
                    parts[i].append(self._inputs(i, 0, b.n))
            at += b.n
        return [np.concatenate(part) if part else None for part in parts]

    def multiplications(self):
        """Of every layer: see `LayerKernel.multiplications`."""
        return np.stack([layer.multiplications() for layer in self.layers])

    def active_sets(self, Data data, uint64_t seed, uint64_t step):
        """Of every layer but the last: (values, ids, indptr) of predictions' active sets, or None
        where they have none."""
        cdef Batch b = data.batch
        cdef Py_ssize_t at = 0, k, i
        cdef int64_t[::1] rows = np.arange(data.n, dtype=np.int64)
        if self.batch_size == 0 or self.training:
            raise ValueError("not allocated for prediction")
        data.check_ids(rows, self.layers[0].n_in, self.n_threads)
        parts = [[] for _ in range(self.n_layers - 1)]
        b.seed, b.n_threads = seed, self.n_threads
        for k in range(self.n_layers - 1):
            (<LayerKernel> self.kernels[k]).prepare(seed, step, self.n_threads)
        while at < data.n:
            b.rows, b.n = &rows[at], min(self.batch_size, data.n - at)
            with nogil:
                self._hidden(&b)
            for i in range(self.n_layers - 1):
                parts[i].append((<LayerKernel> self.layers[i]).sparse_out(b.n))
            at += b.n
        found = []
        for part in parts:
            if not part or part[0] is None:
                found.append(None)
                continue
            values, ids, counts = (np.concatenate(arrays) for arrays in zip(*part, strict=True))
            found.append((values, ids, np.concatenate([[0], np.cumsum(counts)])))
        return found

    cdef void _hidden(self, Batch *b) noexcept nogil:
        """A batch of a prediction through all layers but the last."""
        cdef Py_ssize_t i, k
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="static", num_threads=b.n_threads):
            self._read(b, k * BLOCK, min(b.n, (k + 1) * BLOCK))
        for i in range(self.n_layers - 1):
            (<LayerKernel> self.kernels[i]).predict_batch(b)

    def output_inputs(self, Data data, uint64_t seed, uint64_t step):
        """The output layer's inputs of the first rows, at most a batch, (n, n_in) float32."""
        cdef Batch b = data.batch
        cdef Py_ssize_t k, n = min(self.batch_size, data.n)
        cdef int64_t[::1] rows = np.arange(max(1, n), dtype=np.int64)
        if self.batch_size == 0 or self.training or self._whole():
            raise ValueError("not allocated for prediction, or no dense input")
        data.check_ids(rows[:n], self.layers[0].n_in, self.n_threads)
        b.seed, b.n_threads, b.rows, b.n = seed, self.n_threads, &rows[0], n
        with nogil:
            for k in range(self.n_layers - 1):
                (<LayerKernel> self.kernels[k]).prepare(seed, step, self.n_threads)
            self._hidden(&b)
        return np.ascontiguousarray(self._inputs(self.n_layers - 1, 0, n)[:, :self.output.n_in])

    cdef const float *_input(self, Py_ssize_t s, int thread) noexcept nogil:
        """A sample's input of the output layer, dense and padded."""
        cdef SparseRows *given = &self.output.given
        cdef float *x = <float *> self.dense_inputs.p[thread]
        cdef Py_ssize_t j
        if given.ids == NULL:
            return self.output.x + s * self.output.ld_in
        memset(x, 0, self.output.ld_in * sizeof(float))
        for j in range(s * given.capacity, s * given.capacity + given.count[s]):
            x[given.ids[j]] = given.val[j]
        return x

    # Prediction ------------------------------------------------------------------------------

    def predict(self, Data data, scores=None, int top_k=0, bint exact=True, uint64_t seed=0,
                uint64_t step=0, Searcher searcher=None):
        """Scores of all outputs into `scores` (n, n_out), or the top_k, and the summed loss.

        step is the number of the next training step: tables are as fresh as it would find them.
        searcher : where not exact, finds the neurons in place of the layer's own tables

        Returns (ids (n, top_k) int32, scores (n, top_k) float32, summed loss or None). Ids are -1
        where fewer than top_k neurons were retrieved.
        """
        cdef Batch b = data.batch
        cdef Py_ssize_t n = data.n, at, k, n_out = self.output.n_out
        cdef float[:, ::1] all_scores
        cdef float *all_p = NULL
        cdef float *top_p = NULL
        cdef int32_t *ids_p = NULL
        cdef int64_t[::1] rows = np.arange(n, dtype=np.int64)
        ids = np.full((n, top_k), -1, dtype=np.int32)
        top = np.full((n, top_k), -np.inf, dtype=np.float32)
        losses = np.zeros(n)
        cdef int32_t[:, ::1] ids_v = ids
        cdef float[:, ::1] top_v = top
        cdef double[::1] losses_v = losses
        if self.batch_size == 0:
            raise ValueError("not allocated")
        data.check_ids(rows, self.layers[0].n_in, self.n_threads)
        if scores is not None:
            all_scores = scores
            if all_scores.shape[0] != n or all_scores.shape[1] != n_out:
                raise ValueError("scores has another shape")
            if n:
                all_p = &all_scores[0, 0]
        cdef bint keep = all_p != NULL
        if n and top_k:
            ids_p, top_p = &ids_v[0, 0], &top_v[0, 0]
        if not exact and searcher is not None:
            if searcher.params.w != self.output.params.w or searcher.n_threads < self.n_threads \
                    or self._whole():
                raise ValueError("a searcher that does not fit the output layer")
        elif not exact and (self.sampled is None or self.sampled.active_set.retriever is None):
            raise ValueError("no tables")
        self.searcher = searcher
        self.dense_inputs = PerThread(self.n_threads, self.output.ld_in * sizeof(float))
        tile = padded(n_out + 1) if self._whole() else min(TILE, padded(n_out))
        self.tiles = PerThread(self.n_threads, BLOCK * tile * sizeof(float))
        self.places = PerThread(self.n_threads, max(1, data.max_labels) * sizeof(int32_t))
        cdef Py_ssize_t tile_ = tile, n_blocks
        b.seed, b.n_threads = seed, self.n_threads
        with nogil:
            for k in range(self.n_layers):
                if not exact and searcher is None \
                        or <PyObject *> self.sampled != self.kernels[k]:
                    (<LayerKernel> self.kernels[k]).prepare(seed, step, self.n_threads)
            at = 0
            while at < n:
                b.rows = &rows[at]
                b.n = min(self.batch_size, n - at)
                b.step = at
                n_blocks = (b.n + BLOCK - 1) // BLOCK
                if self.by_layer:
                    self._hidden(&b)
                for k in prange(n_blocks, schedule="dynamic", chunksize=1,
                                num_threads=self.n_threads):
                    self._predict_block(
                        &b, k * BLOCK, min(b.n, (k + 1) * BLOCK), tile_, exact, top_k, keep,
                        ids_p + at * top_k, top_p + at * top_k,
                        all_p + at * n_out, &losses_v[at], omp_get_thread_num())
                at = at + b.n
        return ids, top, float(losses.sum()) if data.batch.y_indptr != NULL else None

    cdef bint _whole(self):
        # A layer on sparse features has its weights by feature: all outputs come at once.
        return self.n_layers == 1 and self.sparse

    cdef void _predict_block(self, Batch *b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t tile,
                             bint exact, int k, bint keep, int32_t *ids, float *top,
                             float *scores, double *losses, int thread) noexcept nogil:
        cdef float *z = <float *> self.tiles.p[thread]
        cdef float *zs
        cdef int32_t *own
        cdef Py_ssize_t i, s, row, m, j, n, n_out = self.output.n_out
        cdef bint softmax = self.output.activation == SOFTMAX
        cdef double[32] highest, total
        cdef double e
        cdef float z_max, z_sum
        cdef int64_t y
        if not self.by_layer:
            self._read(b, first, last)
            for i in range(self.n_layers - 1):
                (<LayerKernel> self.kernels[i]).predict(b, first, last, thread)
        if not exact and self.searcher is not None:
            for s in range(first, last):
                self._search(s, ids + s * k, top + s * k, k, thread)
            return
        if not exact:
            for s in range(first, last):
                n = self.sampled.retrieve(b, s, &own, &zs, thread)
                if n:
                    activate(self.output.activation, zs, n)
                for j in range(n):
                    keep_top(zs[j], own[j], ids + s * k, top + s * k, k)
            return
        for s in range(last - first):
            highest[s], total[s] = -1e30, 0
        row = 0
        while row < n_out:
            m = min(tile, n_out - row)
            self.output.logits(b, first, last, row, m, z, tile)
            for s in range(first, last):
                zs = z + (s - first) * tile
                if keep:
                    memcpy(scores + s * n_out + row, zs, m * sizeof(float))
                for j in range(m):
                    if k and zs[j] > top[s * k + k - 1]:
                        keep_top(zs[j], <int32_t> (row + j), ids + s * k, top + s * k, k)
                if b.y_indptr != NULL:
                    losses[s] += self._partial_loss(b, s, zs, row, m, thread)
                if softmax:
                    z_max = simd.exp_shift(zs, m, &z_sum)
                    i = s - first
                    if z_max > highest[i]:
                        total[i] = total[i] * exp(highest[i] - z_max) + z_sum
                        highest[i] = z_max
                    else:
                        total[i] += z_sum * exp(z_max - highest[i])
            row += m
        for s in range(first, last):
            if softmax:
                e = highest[s - first] + log(total[s - first])
                for j in range(k):
                    top[s * k + j] = <float> exp(top[s * k + j] - e)
                if b.y_indptr != NULL:
                    y = b.rows[s]
                    if b.y_indptr[y + 1] > b.y_indptr[y]:
                        losses[s] += e * (b.sample_weight[y] if b.sample_weight != NULL else 1)
            else:
                activate(self.output.activation, top + s * k, k)
            if keep:
                activate(self.output.activation, scores + s * n_out, n_out)

    cdef void _search(self, Py_ssize_t s, int32_t *ids, float *top, int k,
                      int thread) noexcept nogil:
        """A sample's best outputs; softmax is over all that the searcher computed."""
        cdef Best best
        cdef Py_ssize_t j
        cdef double e
        best.ids, best.scores, best.k = ids, top, k
        best.sums = self.output.activation == SOFTMAX
        self.searcher.search(self._input(s, thread), &best, thread)
        if best.sums:
            e = best.highest + log(best.total)
            for j in range(best.n):
                top[j] = <float> exp(top[j] - e)
        else:
            activate(self.output.activation, top, best.n)

    cdef double _partial_loss(self, Batch *b, Py_ssize_t s, float *z, Py_ssize_t row,
                              Py_ssize_t m, int thread) noexcept nogil:
        """A sample's loss over outputs row..row+m-1; for softmax without its log sum exp."""
        cdef int64_t at = b.rows[s], i = b.y_indptr[at], end = b.y_indptr[at + 1], j
        cdef int32_t *places = <int32_t *> self.places.p[thread]
        cdef Py_ssize_t n = 0
        cdef double loss = 0, total = 0
        cdef Weights weights = Weights(0, 0, 1, 1, NULL, NULL, NULL)
        cdef float weight = b.sample_weight[at] if b.sample_weight != NULL else 1
        for j in range(i, end):
            total += b.y_data[j]
        while i < end and b.y_indices[i] < row:
            i += 1
        j = i
        while j < end and b.y_indices[j] < row + m:
            places[n] = <int32_t> (b.y_indices[j] - row)
            loss -= b.y_data[j] / total * z[places[n]]
            n += 1
            j += 1
        if self.output.loss.is_softmax:
            return weight * loss
        return weight * self.output.loss.gradient(z, m, weights, places, 0, b.y_data + i, n,
                                                  self.output.n_out, 0)


cdef void keep_top(float score, int32_t id, int32_t *ids, float *top, int k) noexcept nogil:
    """Insertion into the k best so far, in descending order; of equals the first stays first."""
    cdef int j = k - 1
    if k == 0 or not score > top[j]:
        return
    while j > 0 and score > top[j - 1]:
        top[j], ids[j] = top[j - 1], ids[j - 1]
        j -= 1
    top[j], ids[j] = score, id
