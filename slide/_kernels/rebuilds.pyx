"""Schedules of rebuilds: fixed, by drift of the codes, one table after the other."""
cimport cython
from libc.math cimport exp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.hashing cimport NO_BUCKET
from slide._kernels.openmp cimport omp_get_wtime
from slide._kernels.random cimport below, stream

import numpy as np


@cython.final
cdef class Rebuilds:
    """
    Parameters
    ----------
    retriever : Retriever or None
    schedule : tuple
        See `slide.rebuilds`: every, decay, new_functions_every; then, 0 if left out, n_panel and
        threshold of drift, and the steps that renew a table of a rolling schedule.
    """

    def __cinit__(self, Py_ssize_t n_neurons, Retriever retriever, schedule):
        cdef int n_tables = 0 if retriever is None else retriever.tables.n_tables
        self.n_neurons, self.retriever = n_neurons, retriever
        self.dirty_buffer = Buffer(n_neurons)
        self.dirty = <uint8_t *> self.dirty_buffer.p
        self.changed_buffer = Buffer(n_neurons * sizeof(int32_t) if retriever is not None else 0)
        self.changed = <int32_t *> self.changed_buffer.p
        (self.rebuild_every, self.rebuild_decay, self.new_functions_every, self.n_panel,
         self.threshold, self.roll_steps) = (*schedule, 0, 0.0, 0)[:6]
        if self.roll_steps and (retriever is None or retriever.roll_units == 0):
            raise ValueError("tables that are not renewed one after the other")
        self.n_panel = min(self.n_panel, n_neurons) if retriever is not None else 0
        self.next_rebuild = 0           # it counts from the step that builds the tables
        self.n_rebuilds, self.built, self.seconds, self.drift = 0, False, 0, -1
        self.timed = self.timed_seconds = 0
        self.panel = np.zeros(self.n_panel, np.int32)
        self.panel_changed = np.zeros(self.n_panel, np.int32)
        self.panel_codes = np.zeros((self.n_panel, n_tables), np.uint64)
        self.panel_codes_now = np.zeros((self.n_panel, n_tables), np.uint64)
        self.round = np.zeros(2, np.int64)
        self.pending = np.zeros(n_neurons if self.roll_steps else 0, np.uint64)
        self.refreshed = np.zeros(n_tables, np.int64)
        self.hashed_codes = self.now = 0

    cdef void maintain(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil:
        """Before the step of that number: builds the tables, or does what is due.

        What is done depends on the state and the step alone, and at most once for a step.
        """
        cdef double started, took, rebuilt = 0
        if self.retriever is None:
            return
        self.retriever.watch(p)
        self.now = step
        if self.built and step < self.next_rebuild:
            return
        started = omp_get_wtime()
        if not self.built:
            self._build(p, seed, step, n_threads)
        elif self.roll_steps:
            rebuilt = 1.0 / self.roll_steps
            self._roll(p, seed, step, n_threads)
        else:
            if self.n_panel:
                self._measure_drift(p, n_threads)
            if self.n_panel == 0 or self.drift > self.threshold:
                rebuilt = 1
                self._rebuild(p, seed, step, n_threads)
            else:
                self.next_rebuild = step + self.rebuild_every
        took = omp_get_wtime() - started
        self.seconds += took
        if rebuilt:
            self.timed += rebuilt
            self.timed_seconds += took

    cdef Py_ssize_t _find_changed(self) noexcept nogil:
        """Lists the neurons whose weights changed since the last rebuild; returns how many."""
        cdef Py_ssize_t i, n = 0
        for i in range(self.n_neurons):
            if self.dirty[i]:
                self.changed[n] = <int32_t> i
                n += 1
        return n

    cdef void _build(self, Parameters p, uint64_t seed, uint64_t step,
                     int n_threads) noexcept nogil:
        self.retriever.build(p, stream(~seed, 5, 0), n_threads)
        self.built = True
        self.hashed_codes += self.n_neurons * self.retriever.tables.n_tables
        if self.roll_steps:
            self.round[0] = self.round[1] = 0
            self.next_rebuild = step + 1
        elif self.next_rebuild <= step:
            self._wait(step)
        self._all_refreshed(p, seed, step, n_threads)

    cdef void _rebuild(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil:
        cdef Py_ssize_t n = self._find_changed()
        cdef bint new_functions
        self.n_rebuilds += 1
        new_functions = self.new_functions_every > 0 \
            and self.n_rebuilds % <uint64_t> self.new_functions_every == 0
        self.retriever.refresh(p, self.changed, n, stream(~seed, 5, self.n_rebuilds),
                               new_functions, n_threads)
        self.hashed_codes += (self.n_neurons if new_functions else n) \
            * self.retriever.tables.n_tables
        self._wait(step)
        self._all_refreshed(p, seed, step, n_threads)

    cdef void _wait(self, uint64_t step) noexcept nogil:
        """The t-th rebuild comes rebuild_every * exp(decay * t) steps after the one before (SLIDE,
        section 4.2)."""
        self.next_rebuild = step + self.rebuild_every * exp(self.rebuild_decay * self.n_rebuilds)

    cdef void _all_refreshed(self, Parameters p, uint64_t seed, uint64_t step,
                             int n_threads) noexcept nogil:
        """All tables are those of the present weights: notes where a new panel belongs."""
        cdef uint64_t rng = stream(~seed, 21, self.n_rebuilds)
        cdef Py_ssize_t t, left = self.n_panel
        cdef int32_t id
        memset(self.dirty, 0, self.n_neurons)
        for t in range(self.refreshed.shape[0]):
            self.refreshed[t] = step
        if left == 0:
            return
        # Selection sampling (Knuth, TAOCP 2, 3.4.2).
        for id in range(<int32_t> self.n_neurons):
            if left == 0:
                break
            if <Py_ssize_t> below(&rng, <uint32_t> (self.n_neurons - id)) < left:
                self.panel[self.n_panel - left] = id
                left -= 1
        self.retriever.codes_now(p, &self.panel[0], self.n_panel, &self.panel_codes[0, 0],
                                 n_threads)
        self.hashed_codes += self.n_panel * self.retriever.tables.n_tables

    cdef void _measure_drift(self, Parameters p, int n_threads) noexcept nogil:
        """Estimates the share of all codes that changed since the last rebuild (MONGOOSE).

        The panel's changed neurons are a random sample of all changed ones; the others' codes are
        what they were.
        """
        cdef Py_ssize_t i, m = 0, moved = 0, n = self._find_changed()
        cdef int t, n_tables = self.retriever.tables.n_tables
        self.drift = 0
        for i in range(self.n_panel):
            if self.dirty[self.panel[i]]:
                self.panel_changed[m] = self.panel[i]
                m += 1
        if m == 0:
            return
        self.retriever.codes_now(p, &self.panel_changed[0], m, &self.panel_codes_now[0, 0],
                                 n_threads)
        self.hashed_codes += m * n_tables
        m = 0
        for i in range(self.n_panel):
            if self.dirty[self.panel[i]]:
                for t in range(n_tables):
                    moved += self.panel_codes_now[m, t] != self.panel_codes[i, t]
                m += 1
        self.drift = <double> n * moved / (<double> self.n_neurons * m * n_tables)

    cdef void _roll(self, Parameters p, uint64_t seed, uint64_t step,
                    int n_threads) noexcept nogil:
        """One step's share of the work that renews a table; after the last the next table's."""
        cdef Py_ssize_t units = self.retriever.roll_units
        cdef int64_t table = self.round[0], done = self.round[1]
        cdef Py_ssize_t first = units * done // self.roll_steps
        cdef Py_ssize_t last = units * (done + 1) // self.roll_steps
        self.retriever.roll(p, <int> table, first, last, stream(~seed, 22, self.n_rebuilds),
                            &self.pending[0], n_threads)
        self.hashed_codes += max(<Py_ssize_t> 0, min(last, self.n_neurons) - first)
        self.round[1] = done + 1
        if last == units:
            self.n_rebuilds += 1
            self.refreshed[table] = step
            self.round[0] = table + 1 if table + 1 < self.retriever.tables.n_tables else 0
            self.round[1] = 0
        self.next_rebuild = step + 1

    def due(self):
        """Neurons that the next rebuild, or a round of a rolling schedule, looks at: int32,
        ascending."""
        if self.roll_steps or not self.built:
            return np.arange(self.n_neurons, dtype=np.int32)
        return np.flatnonzero(<uint8_t[:self.n_neurons]> self.dirty).astype(np.int32)

    def get_state(self):
        state = {"schedule": np.array([self.next_rebuild, self.n_rebuilds, self.built])}
        if self.retriever is not None:
            state["dirty"] = np.array(<uint8_t[:self.n_neurons]> self.dirty)
            state["refreshed"] = np.array(self.refreshed)
            state["maintenance"] = np.array([self.now, self.hashed_codes, self.drift],
                                            dtype=np.float64)
        if self.n_panel:
            state["panel"], state["panel_codes"] = np.array(self.panel), np.array(self.panel_codes)
        if self.roll_steps:
            state["round"], state["pending"] = np.array(self.round), np.array(self.pending)
        return state

    def check_state(self, state):
        """Refuses what get_state cannot have given."""
        schedule = np.asarray(state["schedule"], dtype=np.float64)
        if schedule.shape != (3,) or not (schedule >= 0).all() or not schedule[1] < 2 ** 53:
            raise ValueError(f"schedule of rebuilds: {schedule} cannot be")
        if self.retriever is None:
            return
        dirty = state["dirty"]
        if dirty.shape != (self.n_neurons,) or dirty.dtype != np.uint8:
            raise ValueError("marks of changed neurons do not fit the layer")

        def take(name, like, limit):
            array = state[name]
            if array.shape != (<object> like).shape or array.dtype != np.asarray(like).dtype:
                raise ValueError(f"schedule of rebuilds: {name} has another shape or dtype")
            if limit and array.size and not 0 <= array.min() <= array.max() < limit:
                raise ValueError(f"schedule of rebuilds: {name} is out of range")
            return array

        take("refreshed", self.refreshed, 2 ** 53)
        now, hashed, drift = take("maintenance", np.zeros(3), None)
        if not (0 <= now < 2 ** 53 and 0 <= hashed < 2 ** 53 and -1 <= drift <= 1):
            raise ValueError("schedule of rebuilds: maintenance is out of range")
        if self.n_panel:
            take("panel", self.panel, self.n_neurons)
            take("panel_codes", self.panel_codes, None)
        if self.roll_steps:
            table, done = take("round", self.round, 2 ** 53)
            pending = take("pending", self.pending, None)
            tables = self.retriever.tables
            most = <uint64_t> 1 << tables.code_bits if tables.code_bits else tables.n_slots
            if table >= tables.n_tables or done >= self.roll_steps:
                raise ValueError(f"schedule of rebuilds: step {done} of table {table}")
            beyond = pending >= np.uint64(most)
            if tables.code_bits:
                beyond &= pending != np.uint64(<uint64_t> NO_BUCKET)
            if beyond.any():
                raise ValueError("schedule of rebuilds: pending codes are out of range")

    def set_state(self, state):
        """Takes what get_state gave, after check_state."""
        self.next_rebuild, n_rebuilds, built = state["schedule"]
        self.n_rebuilds, self.built = int(n_rebuilds), bool(built)
        if self.retriever is not None:
            (<uint8_t[:self.n_neurons]> self.dirty)[:] = state["dirty"]
            np.asarray(self.refreshed)[:] = state["refreshed"]
            now, hashed, self.drift = state["maintenance"]
            self.now, self.hashed_codes = int(now), int(hashed)
        if self.n_panel:
            np.asarray(self.panel)[:] = state["panel"]
            np.asarray(self.panel_codes)[:] = state["panel_codes"]
        if self.roll_steps:
            np.asarray(self.round)[:] = state["round"]
            np.asarray(self.pending)[:] = state["pending"]

    def maintenance(self):
        """What looking after the tables has cost and left, as floats by name.

        Returns
        -------
        dict
            n_rebuilds (in a rolling schedule: of single tables), seconds, hashed_codes (neurons
            times tables, the first build and what measures drift included), hashed_neurons (the
            same over the number of tables), table_age and oldest_table (steps since the tables
            were refreshed: mean and largest); with a drift schedule that has looked, drift, the
            share of codes that had changed; after a rebuild since this was made or loaded,
            rebuild_seconds, the mean of one.
        """
        ages = self.now - np.asarray(self.refreshed, dtype=np.float64)
        found = {
            "n_rebuilds": float(self.n_rebuilds),
            "seconds": float(self.seconds),
            "hashed_codes": float(self.hashed_codes),
            "hashed_neurons": self.hashed_codes / max(1.0, len(ages)),
            "table_age": float(ages.mean()) if len(ages) else 0.0,
            "oldest_table": float(ages.max()) if len(ages) else 0.0,
        }
        if self.drift >= 0:
            found["drift"] = float(self.drift)
        if self.timed:
            found["rebuild_seconds"] = self.timed_seconds / self.timed
        return found
