"""What is in hash tables, and what they return: looked at without a change to either."""
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

from slide._kernels.hashing cimport NO_BUCKET
from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.optim cimport Parameters
from slide._kernels.random cimport stream
from slide._kernels.sampling cimport ActiveSet
from slide._kernels.tables cimport Tables

import numpy as np


cdef _check(ActiveSet active, Parameters p, int n_threads):
    if active.retriever is None:
        raise ValueError("an active set without tables")
    if p.n_rows != active.n_neurons:
        raise ValueError(f"{p.n_rows} rows of weights for {active.n_neurons} neurons")
    if not 1 <= n_threads <= active.n_threads:
        raise ValueError(f"n_threads={n_threads} of {active.n_threads}")


def retrieved(ActiveSet active not None, Parameters p not None, const float[:, ::1] x,
              int n_threads=1, uint64_t seed=0):
    """Neurons that the tables, as they are, return for a layer's inputs.

    p : the layer's parameters
    x : (n, p.ld), a 1 after the last value, then zeros

    Returns (indptr (n + 1) int64, ids int32); frequent neurons come first.
    """
    cdef Py_ssize_t n = x.shape[0], s, most
    _check(active, p, n_threads)
    if x.shape[1] != p.ld:
        raise ValueError(f"inputs of {x.shape[1]} floats, not {p.ld}")
    active.retriever.watch(p)           # one that was loaded has not seen the weights yet
    most = min(active.max_active, active.n_neurons - active.n_frequent)
    out = np.empty((n, max(1, most + active.n_frequent)), np.int32)
    counts = np.zeros(n + 1, np.int64)
    cdef int32_t[:, ::1] ids = out
    cdef int64_t[::1] count = counts
    for s in prange(n, nogil=True, schedule="dynamic", chunksize=4, num_threads=n_threads):
        count[s + 1] = active.query(&x[s, 0], &ids[s, 0], most, stream(~seed, 25, s),
                                    omp_get_thread_num())
    return np.cumsum(counts), out[np.arange(out.shape[1]) < counts[1:, None]]


def places(ActiveSet active not None, Parameters p not None, const int32_t[::1] ids,
           int n_threads=1):
    """Where neurons are in each table, and where their present weights belong: two (n, n_tables)
    int64 arrays of numbers of buckets, -1 for nowhere.

    ids : ascending; all that move, where retrievers place them jointly
    """
    cdef Tables tables
    cdef Py_ssize_t n = ids.shape[0], i, j, slot
    cdef int t
    cdef uint8_t tag = 0
    _check(active, p, n_threads)
    tables = active.retriever.tables
    if n and not (0 <= ids[0] and ids[n - 1] < active.n_neurons and (np.diff(ids) > 0).all()):
        raise ValueError("ids do not ascend, or are out of range")
    codes = np.zeros((n, tables.n_tables), np.uint64)
    are = np.full((n, tables.n_tables), -1, np.int64)
    belong = np.full((n, tables.n_tables), -1, np.int64)
    order = np.full(active.n_neurons, -1, np.int32)
    order[np.asarray(ids)] = np.arange(n)
    cdef uint64_t[:, ::1] code = codes
    cdef int64_t[:, ::1] now = are
    cdef int64_t[:, ::1] then = belong
    cdef const int32_t[::1] place = order
    if n == 0:
        return are, belong
    with nogil:
        active.retriever.codes_due(p, &ids[0], n, &code[0, 0], n_threads)
        for t in range(tables.n_tables):
            for i in range(n):
                if code[i, t] != <uint64_t> NO_BUCKET:
                    tag = 0
                    slot = tables.slot_of(code[i, t], &tag)
                    then[i, t] = 256 * slot + tag
            for slot in range(tables.n_slots):
                for j in range(tables.starts[t][slot], tables.starts[t][slot + 1]):
                    i = place[tables.ids[t][j]]
                    if i >= 0:
                        now[i, t] = 256 * slot + (tables.tags[t][j] if tables.tag_bits else 0)
    return are, belong


def bucket_sizes(Tables tables not None):
    """Neurons of all buckets that have some, in any order: int32."""
    cdef Py_ssize_t slot, j, n
    cdef int t, tag
    cdef int32_t[256] counts
    found = np.empty(tables.n_items, np.int32)
    cdef int32_t[::1] size = found
    sizes = [found[:0]]
    for t in range(tables.n_tables):
        n = 0
        with nogil:
            memset(counts, 0, sizeof(counts))
            for slot in range(tables.n_slots):
                # A slot may hold several codes, which differ in their tags.
                for j in range(tables.starts[t][slot], tables.starts[t][slot + 1]):
                    counts[tables.tags[t][j] if tables.tag_bits else 0] += 1
                for j in range(tables.starts[t][slot], tables.starts[t][slot + 1]):
                    tag = tables.tags[t][j] if tables.tag_bits else 0
                    if counts[tag]:
                        size[n] = counts[tag]
                        counts[tag] = 0
                        n += 1
        sizes.append(found[:n].copy())
    return np.concatenate(sizes)
