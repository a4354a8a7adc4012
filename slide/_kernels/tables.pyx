"""Bucket storage: about 4 bytes an item and table, no bucket preallocated, none overflows."""
cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.hashing cimport NO_BUCKET
from slide._kernels.random cimport below, mix64, stream

import numpy as np


@cython.final
cdef class Tables:
    """
    A code's leading bits choose a slot and up to 8 further bits, the tag, are kept with each item,
    so a bucket is exact where the code has at most slot_bits + 8 bits. Longer codes are mixed
    first; a stranger of the same slot then passes as a member with probability 2^-8.

    Parameters
    ----------
    code_bits : int
        Width of the codes; 0: codes are numbers below n_slots.
    n_slots : int
        Only with code_bits = 0.
    n_threads : int
        Threads that may call insert at once, each for another table.

    Notes
    -----
    `limit` bounds what a bucket shows to queries. All members stay stored, those beyond the bound
    come into view when others leave, so what is shown depends on the members and their order alone:
    of a first-in-first-out bucket the last ones that were inserted; of a reservoir any ones, all
    equally likely.
    """

    def __cinit__(self, Py_ssize_t n_items, int n_tables, int code_bits, Py_ssize_t n_slots,
                  int n_threads):
        cdef Py_ssize_t i, n = n_tables + n_threads
        self.n_items, self.n_tables, self.code_bits = n_items, n_tables, code_bits
        self.slot_bits, self.tag_bits, self.mixed = 0, 0, False
        self.capacity, self.overflow, self.seed = 0, FIFO, 0
        self.inserts = np.zeros(n_tables, np.int64)
        if code_bits:
            # At most n_items / 4 slots of 4 bytes and one byte of tag: 6 bytes an item in all.
            self.slot_bits = min(code_bits, max(1, len(bin(n_items)) - 2 - 3))
            self.tag_bits = min(8, code_bits - self.slot_bits)
            self.mixed = code_bits > self.slot_bits + 8
            n_slots = (<Py_ssize_t> 1) << self.slot_bits
        self.n_slots = n_slots
        self.id_buffer = Buffer(n * n_items * sizeof(int32_t))
        self.start_buffer = Buffer(n * (n_slots + 1) * sizeof(int32_t))
        self.tag_buffer = Buffer(n * n_items if self.tag_bits else 0)
        self.pointer_buffer = Buffer(3 * n * sizeof(void *))
        self.ids = <int32_t **> self.pointer_buffer.p
        self.starts = self.ids + n
        self.tags = <uint8_t **> (self.starts + n)
        for i in range(n):
            self.ids[i] = <int32_t *> self.id_buffer.p + i * n_items
            self.starts[i] = <int32_t *> self.start_buffer.p + i * (n_slots + 1)
            self.tags[i] = <uint8_t *> self.tag_buffer.p + i * n_items

    cdef Py_ssize_t slot_of(self, uint64_t code, uint8_t *tag) noexcept nogil:
        if self.slot_bits == 0:
            return <Py_ssize_t> code
        if self.mixed:
            code = mix64(code)
            tag[0] = code & 0xff
            return <Py_ssize_t> (code >> (64 - self.slot_bits))
        tag[0] = <uint8_t> (code & ((1 << self.tag_bits) - 1))
        return <Py_ssize_t> (code >> self.tag_bits)

    def limit(self, Py_ssize_t capacity, str overflow, uint64_t seed=0):
        """Shows at most `capacity` members of every bucket; of tables that are still empty.

        overflow : {"fifo", "reservoir"}
        """
        if capacity < 1 or overflow not in ("fifo", "reservoir"):
            raise ValueError(f"capacity={capacity} with overflow={overflow!r}")
        if np.asarray(self.inserts).any():
            raise ValueError("tables that are in use")
        self.capacity, self.seed = capacity, seed
        self.overflow = FIFO if overflow == "fifo" else RESERVOIR

    cdef void shown(self, int table, Py_ssize_t slot, uint8_t tag, Py_ssize_t *first,
                    Py_ssize_t *count) noexcept nogil:
        """The part of a slot with the tag's members that its bucket shows, and with no others."""
        cdef Py_ssize_t low = self.starts[table][slot], high = self.starts[table][slot + 1], at
        cdef Py_ssize_t left = self.capacity
        first[0], count[0] = low, high - low
        if left == 0 or high - low <= left:
            return
        if self.overflow == RESERVOIR:
            at = low + left
            if self.tag_bits:
                at = low
                while at < high and left:
                    left -= self.tags[table][at] == tag
                    at += 1
            count[0] = at - low
        else:
            at = high - left
            if self.tag_bits:
                at = high
                while at > low and left:
                    at -= 1
                    left -= self.tags[table][at] == tag
            first[0], count[0] = at, high - at

    cdef void _shuffle(self, int table, const uint8_t *moved, bint all_new) noexcept nogil:
        """Gives the new ones at every slot's end random places in it.

        The order of a slot's items is then a random permutation if it was one before: the shuffle
        of Fisher & Yates from inside out, of which reservoir sampling (Vitter, TOMS 1985, algorithm
        R) keeps the beginning. It stays one when items leave.
        """
        cdef int32_t *ids = self.ids[table]
        cdef int32_t *start = self.starts[table]
        cdef uint8_t *tag = self.tags[table]
        cdef uint64_t rng = stream(self.seed, <uint64_t> table, <uint64_t> self.inserts[table])
        cdef Py_ssize_t slot, at, to
        cdef int32_t id
        cdef uint8_t t
        for slot in range(self.n_slots):
            for at in range(start[slot], start[slot + 1]):
                id = ids[at]
                if not (all_new or moved[id]):
                    continue
                to = start[slot] + below(&rng, <uint32_t> (at - start[slot] + 1))
                ids[at], ids[to] = ids[to], id
                if self.tag_bits:
                    t = tag[at]
                    tag[at], tag[to] = tag[to], t

    cdef void insert(self, int table, const int32_t *items, const uint64_t *codes,
                     Py_ssize_t stride, Py_ssize_t n, const uint8_t *moved,
                     int thread) noexcept nogil:
        """Moves items[i] (NULL: i) to the bucket of codes[i * stride]; moved[item] marks them.

        Those whose code is NO_BUCKET are in none afterwards.
        """
        cdef int32_t *ids = self.ids[table]
        cdef int32_t *start = self.starts[table]
        cdef uint8_t *tag = self.tags[table]
        cdef Py_ssize_t spare = self.n_tables + thread, slot, j, at
        cdef int32_t *new_ids = self.ids[spare]
        cdef int32_t *new_start = self.starts[spare]
        cdef uint8_t *new_tag = self.tags[spare]
        cdef uint8_t t = 0
        cdef int32_t count, total = 0
        cdef bint all_new = start[self.n_slots] == 0
        memset(new_start, 0, (self.n_slots + 1) * sizeof(int32_t))
        for slot in range(self.n_slots):
            for j in range(start[slot], start[slot + 1]):
                new_start[slot] += not moved[ids[j]]
        for j in range(n):
            if codes[j * stride] != <uint64_t> NO_BUCKET:
                new_start[self.slot_of(codes[j * stride], &t)] += 1
        for slot in range(self.n_slots + 1):
            count = new_start[slot]
            new_start[slot] = total
            total += count
        for slot in range(self.n_slots):
            for j in range(start[slot], start[slot + 1]):
                if not moved[ids[j]]:
                    at = new_start[slot]
                    new_start[slot] += 1
                    new_ids[at] = ids[j]
                    if self.tag_bits:
                        new_tag[at] = tag[j]
        for j in range(n):
            if codes[j * stride] == <uint64_t> NO_BUCKET:
                continue
            slot = self.slot_of(codes[j * stride], &t)
            at = new_start[slot]
            new_start[slot] += 1
            new_ids[at] = items[j] if items != NULL else <int32_t> j
            if self.tag_bits:
                new_tag[at] = t
        for slot in range(self.n_slots, 0, -1):      # every start now stands at its slot's end
            new_start[slot] = new_start[slot - 1]
        new_start[0] = 0
        self.ids[table], self.ids[spare] = new_ids, ids
        self.starts[table], self.starts[spare] = new_start, start
        self.tags[table], self.tags[spare] = new_tag, tag
        self.inserts[table] += 1
        if self.capacity and self.overflow == RESERVOIR:
            self._shuffle(table, moved, all_new)

    cdef void refill(self, int table, const uint64_t *codes, const uint8_t *moved,
                     int thread) noexcept nogil:
        """Puts all items, item i into the bucket of codes[i], where a table had others."""
        memset(self.starts[table], 0, (self.n_slots + 1) * sizeof(int32_t))
        self.insert(table, NULL, codes, 1, self.n_items, moved, thread)

    def move(self, int table, codes, items=None):
        """Moves items (None: all, in their order) to the buckets of their codes.

        codes : uint64, one an item; NO_BUCKET for an item that is to be in none
        items : int32, none twice
        """
        cdef const uint64_t[::1] c = np.ascontiguousarray(codes, dtype=np.uint64)
        cdef const int32_t[::1] ids = np.arange(self.n_items, dtype=np.int32) if items is None \
            else np.ascontiguousarray(items, dtype=np.int32)
        cdef Py_ssize_t i, n = ids.shape[0]
        cdef Buffer moved = Buffer(self.n_items)
        if not 0 <= table < self.n_tables:
            raise IndexError(f"table {table} of {self.n_tables}")
        if c.shape[0] != n:
            raise ValueError(f"{c.shape[0]} codes for {n} items")
        for i in range(n):
            if not 0 <= ids[i] < self.n_items or (<uint8_t *> moved.p)[ids[i]]:
                raise ValueError(f"items[{i}] is {ids[i]}: twice, or not below {self.n_items}")
            (<uint8_t *> moved.p)[ids[i]] = 1
            if c[i] >> self.code_bits if self.code_bits else c[i] >= <uint64_t> self.n_slots:
                if c[i] != <uint64_t> NO_BUCKET:
                    raise ValueError(f"codes[{i}] is {c[i]}: too large")
        if n:
            self.insert(table, &ids[0], &c[0], 1, n, <uint8_t *> moved.p, 0)

    @property
    def nbytes(self):
        """Bytes of ids, tags and bucket starts of all tables."""
        per_item = sizeof(int32_t) + (1 if self.tag_bits else 0)
        return self.n_tables * (self.n_items * per_item + (self.n_slots + 1) * sizeof(int32_t))

    def bucket(self, int table, uint64_t code):
        """Ids that the bucket of a code shows."""
        if not 0 <= table < self.n_tables:
            raise IndexError(f"table {table} of {self.n_tables}")
        cdef uint8_t tag = 0
        cdef Py_ssize_t slot = self.slot_of(code, &tag), j, first, count
        if code == <uint64_t> NO_BUCKET:
            return np.empty(0, dtype=np.int32)
        if not 0 <= slot < self.n_slots:
            raise IndexError(f"code {code} of {self.n_slots}")
        self.shown(table, slot, tag, &first, &count)
        return np.array(
            [self.ids[table][j] for j in range(first, first + count)
             if not self.tag_bits or self.tags[table][j] == tag], dtype=np.int32)

    def sizes(self, int table):
        """Number of items in every slot."""
        if not 0 <= table < self.n_tables:
            raise IndexError(f"table {table} of {self.n_tables}")
        cdef Py_ssize_t j
        return np.diff([self.starts[table][j] for j in range(self.n_slots + 1)])

    def loads(self, int table):
        """Number of members of every bucket that has any, shown or not, in the order of codes."""
        if not 0 <= table < self.n_tables:
            raise IndexError(f"table {table} of {self.n_tables}")
        sizes = self.sizes(table)
        if self.tag_bits == 0:
            return sizes[sizes > 0]
        slots = np.repeat(np.arange(self.n_slots), sizes)
        tags = np.array(<uint8_t[:self.n_items]> self.tags[table])[:len(slots)]
        return np.unique(slots << 8 | tags, return_counts=True)[1]

    def statistics(self):
        """How the items are spread over the buckets of all tables, as floats by name.

        Returns
        -------
        dict
            n_buckets (of one table, as far as they are told apart), empty (mean share of these
            without members), mean_load and max_load (members of one of the others, and of the
            largest), load_of_item (mean members of the bucket that an item is in: what a query as
            like as an item meets), overfull (mean share of the buckets with members that do not
            show all of them), hidden (share of all members that are not shown) and outside (share
            of items in no bucket).
        """
        cdef int t
        n_buckets = self.n_slots << self.tag_bits
        used = members = squares = most = overfull = hidden = 0
        for t in range(self.n_tables):
            loads = self.loads(t).astype(np.int64)
            used += len(loads)
            members += int(loads.sum())
            squares += int((loads ** 2).sum())
            most = max(most, int(loads.max(initial=0)))
            if self.capacity:
                overfull += int((loads > self.capacity).sum())
                hidden += int(np.maximum(loads - self.capacity, 0).sum())
        return {
            "n_buckets": float(n_buckets),
            "empty": 1 - used / (n_buckets * self.n_tables),
            "mean_load": members / max(1, used),
            "max_load": float(most),
            "load_of_item": squares / max(1, members),
            "overfull": overfull / max(1, used),
            "hidden": hidden / max(1, members),
            "outside": 1 - members / (self.n_items * self.n_tables),
        }

    def get_state(self):
        """Copies of ids (L, n_items), starts (L, n_slots + 1) and, if there are any, tags; of
        reservoirs also what their further draws depend on."""
        cdef Py_ssize_t t
        state = {"ids": np.empty((self.n_tables, self.n_items), np.int32),
                 "starts": np.empty((self.n_tables, self.n_slots + 1), np.int32)}
        if self.tag_bits:
            state["tags"] = np.empty((self.n_tables, self.n_items), np.uint8)
        if self.capacity and self.overflow == RESERVOIR:
            state["inserts"] = np.array(self.inserts)
        for t in range(self.n_tables):
            state["ids"][t] = <int32_t[:self.n_items]> self.ids[t]
            state["starts"][t] = <int32_t[:self.n_slots + 1]> self.starts[t]
            if self.tag_bits:
                state["tags"][t] = <uint8_t[:self.n_items]> self.tags[t]
        return state

    def set_state(self, state):
        """Takes what get_state gave; refuses ids and starts that could not have come from it."""
        cdef Py_ssize_t t
        ids, starts = state["ids"], state["starts"]
        wanted = {"ids": ((self.n_tables, self.n_items), np.int32),
                  "starts": ((self.n_tables, self.n_slots + 1), np.int32)}
        if self.tag_bits:
            wanted["tags"] = (self.n_tables, self.n_items), np.uint8
        if self.capacity and self.overflow == RESERVOIR:
            wanted["inserts"] = (self.n_tables,), np.int64
        for name, (shape, dtype) in wanted.items():
            if state[name].shape != shape or state[name].dtype != dtype:
                raise ValueError(f"hash tables: {name} is {state[name].dtype}{state[name].shape}, "
                                 f"not {np.dtype(dtype)}{shape}")
        if (starts[:, 0] != 0).any() or (np.diff(starts, axis=1) < 0).any():
            raise ValueError("hash tables: bucket starts do not ascend from 0")
        for t in range(self.n_tables):
            # Not all items need to be in a table; but one that is there twice could not be moved.
            end = starts[t, self.n_slots]
            used = np.sort(ids[t, :end])
            if end > self.n_items or end and not 0 <= used[0] <= used[end - 1] < self.n_items \
                    or (np.diff(used) == 0).any():
                raise ValueError(f"hash tables: table {t} has an id twice, or out of range")
            # Without codes, as in cells, all items have a place, and queries may rely on it.
            if not self.code_bits and end not in (0, self.n_items):
                raise ValueError(f"hash tables: table {t} has {end} of {self.n_items} ids")
        if "inserts" in wanted:
            if state["inserts"].min() < 0:
                raise ValueError(f"hash tables: inserts {state['inserts']}")
            np.asarray(self.inserts)[:] = state["inserts"]
        for t in range(self.n_tables):
            (<int32_t[:self.n_items]> self.ids[t])[:] = ids[t]
            (<int32_t[:self.n_slots + 1]> self.starts[t])[:] = starts[t]
            if self.tag_bits:
                (<uint8_t[:self.n_items]> self.tags[t])[:] = state["tags"][t]
