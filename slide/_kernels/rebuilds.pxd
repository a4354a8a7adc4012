from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.retrieval cimport Retriever
from slide._kernels.types cimport Buffer


cdef class Rebuilds:
    """When a layer's tables are looked after, what is done, and what it costs."""
    cdef readonly Retriever retriever
    cdef readonly Py_ssize_t n_neurons
    cdef Buffer dirty_buffer, changed_buffer
    cdef uint8_t *dirty                 # per neuron: its weights changed since the last rebuild
    cdef int32_t *changed
    cdef bint built
    cdef double rebuild_every, rebuild_decay, next_rebuild
    cdef Py_ssize_t new_functions_every
    # Drift: neurons drawn at every rebuild, and their codes then
    cdef readonly Py_ssize_t n_panel    # 0: rebuilds do not wait for drift
    cdef double threshold
    cdef readonly double drift          # as estimated last; -1: not yet
    cdef int32_t[::1] panel, panel_changed
    cdef uint64_t[:, ::1] panel_codes, panel_codes_now
    # Rolling: steps that renew one table; 0: tables are not renewed one after the other
    cdef readonly Py_ssize_t roll_steps
    cdef int64_t[::1] round             # the table that is being renewed, steps done for it
    cdef uint64_t[::1] pending          # its neurons' new codes so far
    # Telemetry
    cdef readonly uint64_t n_rebuilds
    cdef readonly double seconds
    cdef double timed, timed_seconds    # rebuilds since this was made, and their seconds
    cdef int64_t[::1] refreshed         # per table the step at which it was
    cdef int64_t hashed_codes, now
    cdef void maintain(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil
    cdef Py_ssize_t _find_changed(self) noexcept nogil
    cdef void _build(self, Parameters p, uint64_t seed, uint64_t step,
                     int n_threads) noexcept nogil
    cdef void _rebuild(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil
    cdef void _wait(self, uint64_t step) noexcept nogil
    cdef void _all_refreshed(self, Parameters p, uint64_t seed, uint64_t step,
                             int n_threads) noexcept nogil
    cdef void _measure_drift(self, Parameters p, int n_threads) noexcept nogil
    cdef void _roll(self, Parameters p, uint64_t seed, uint64_t step,
                    int n_threads) noexcept nogil
