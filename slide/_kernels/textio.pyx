"""Text rows of sparse data to arrays and back: XMC repository text and svmlight.

A row is ``label,label feature:value feature:value ...``. `RowParser` is fed blocks of whole lines
and parses them without the GIL into buffers that become the arrays of a CSR matrix without a
copy. `format_rows` is the way back.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.math cimport INFINITY, NAN, fabs, floor, fma, isnan, log10
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memchr, memcpy

from _thread import get_ident
from decimal import Decimal
from fractions import Fraction

import numpy as np

cdef extern from "math.h" nogil:
    double rint(double)


# Numbers --------------------------------------------------------------------------------------

cdef enum:
    LARGEST_POWER = 63
    LARGEST_EXACT_POWER = 22

# 10^0 to 10^22 are exact in double, the others correctly rounded.
cdef double[LARGEST_POWER + 1] POWER_OF_TEN
for _i in range(LARGEST_POWER + 1):
    POWER_OF_TEN[_i] = float(f"1e{_i}")


def _nearest_float32(text):
    """The float32 nearest to a decimal, by exact rational arithmetic; ties go to even."""
    exact = Fraction(Decimal(text))
    with np.errstate(over="ignore"):
        middle = np.float32(float(exact))
    # The cast from double already sends a true tie to even: it comes first among equals.
    around = [middle, np.nextafter(middle, np.float32(-INFINITY)),
              np.nextafter(middle, np.float32(INFINITY))]
    distances = [abs(_as_fraction(float(f)) - exact) for f in around]
    return around[distances.index(min(distances))]


def _as_fraction(f):
    """An infinity stands where the number after the largest float32 would be."""
    if abs(f) == INFINITY:
        return Fraction(2) ** 128 * (1 if f > 0 else -1)
    return Fraction(f)


# What interrupted `exact_float32`, by thread, until `complain` raises it.
cdef dict interrupted = {}


cdef float exact_float32(const char* text, Py_ssize_t n) noexcept with gil:
    """NAN where an exception came, such as that of Ctrl-C."""
    try:
        return _nearest_float32(text[:n].decode("ascii"))
    except BaseException as error:
        interrupted[get_ident()] = error
        return NAN


cdef inline bint decimal_float32(uint64_t digits, int64_t exponent, float* value) noexcept nogil:
    """digits * 10^exponent as the nearest float32; False when double precision cannot tell."""
    cdef double d, below, above
    if digits == 0 or exponent < -66:            # under half of the smallest subnormal float32
        value[0] = 0.0
        return True
    if exponent > 38:
        value[0] = INFINITY
        return True
    d = <double>digits
    if exponent < -LARGEST_POWER:
        d = d / POWER_OF_TEN[LARGEST_POWER] / POWER_OF_TEN[-exponent - LARGEST_POWER]
    elif exponent < 0:
        d = d / POWER_OF_TEN[-exponent]
    else:
        d = d * POWER_OF_TEN[exponent]
    # Conversion, power and quotient each err by 2^-53 at most, cut digits by 10^-18: if the whole
    # interval of 2^-50 rounds to one float32, that one is right.
    below = d * (1.0 - 8.881784197001252e-16)
    above = d * (1.0 + 8.881784197001252e-16)
    value[0] = <float>d
    if <float>below == <float>above:
        return True
    # Close to the middle between two float32 numbers. If d is exact, its cast rounds right.
    if digits > (<uint64_t>1 << 53) or not -LARGEST_EXACT_POWER <= exponent <= LARGEST_EXACT_POWER:
        return False
    if exponent < 0:
        return fma(d, POWER_OF_TEN[-exponent], -<double>digits) == 0
    return fma(<double>digits, POWER_OF_TEN[exponent], -d) == 0


cdef inline const char* parse_float32(const char* p, float* value) noexcept nogil:
    """Read a decimal number at p; the place after it, or NULL when there is none.

    The text must hold a byte that is no part of a number (the newline) before its end.
    A number beyond the range of float32 gives infinity.
    """
    cdef const char* start = p
    cdef uint64_t digits = 0
    cdef int n_digits = 0            # significant ones kept in `digits`
    cdef int64_t exponent = 0, written = 0
    cdef bint negative = p[0] == c'-', any_digit = False, negative_exponent
    cdef float f = 0
    if p[0] == c'-' or p[0] == c'+':
        p += 1
    while c'0' <= p[0] <= c'9':
        any_digit = True
        if n_digits < 19:
            digits = 10 * digits + <uint64_t>(p[0] - c'0')
            n_digits += digits != 0
        else:
            exponent += 1
        p += 1
    if p[0] == c'.':
        p += 1
        while c'0' <= p[0] <= c'9':
            any_digit = True
            if n_digits < 19:
                digits = 10 * digits + <uint64_t>(p[0] - c'0')
                n_digits += digits != 0
                exponent -= 1
            p += 1
    if not any_digit:
        return NULL
    if p[0] == c'e' or p[0] == c'E':
        p += 1
        negative_exponent = p[0] == c'-'
        if p[0] == c'-' or p[0] == c'+':
            p += 1
        if not c'0' <= p[0] <= c'9':
            return NULL
        while c'0' <= p[0] <= c'9':
            if written < <int64_t>1 << 40:
                written = 10 * written + (p[0] - c'0')
            p += 1
        exponent += -written if negative_exponent else written
    if decimal_float32(digits, exponent, &f):
        value[0] = -f if negative else f
    else:
        value[0] = exact_float32(start, p - start)
        if isnan(value[0]):
            return NULL
    return p


cdef inline const char* parse_id(const char* p, int64_t* value) noexcept nogil:
    """Read an unsigned integer at p; the place after it, or NULL when there is none."""
    cdef int64_t v = 0
    if not c'0' <= p[0] <= c'9':
        return NULL
    while c'0' <= p[0] <= c'9':
        if v < <int64_t>1 << 40:        # saturates: far beyond every legal id, and no overflow
            v = 10 * v + (p[0] - c'0')
        p += 1
    value[0] = v
    return p


# Growing buffers ------------------------------------------------------------------------------

@cython.final
cdef class Buffer:
    """Memory that grows by realloc and is handed to NumPy without a copy."""

    cdef char* data
    cdef size_t size, capacity       # bytes
    cdef object dtype

    def __cinit__(self, dtype):
        self.data = NULL
        self.size = 0
        self.capacity = 0
        self.dtype = np.dtype(dtype)

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t>self.size, 0, flags)

    cdef array(self):
        """The content as an array that owns this buffer; nothing may be appended afterwards."""
        cdef char* fitted
        if self.size == 0:
            return np.empty(0, self.dtype)
        fitted = <char*>realloc(self.data, self.size)
        if fitted != NULL:
            self.data = fitted
            self.capacity = self.size
        return np.frombuffer(self, self.dtype)


cdef bint grow(Buffer b) noexcept nogil:
    cdef size_t capacity = 65536 if b.capacity == 0 else b.capacity + b.capacity // 2
    cdef char* data
    capacity = (capacity + 63) // 64 * 64
    data = <char*>realloc(b.data, capacity)
    if data == NULL:
        return False
    b.data = data
    b.capacity = capacity
    return True


cdef inline bint push_int32(Buffer b, int32_t value) noexcept nogil:
    if b.size + sizeof(int32_t) > b.capacity and not grow(b):
        return False
    (<int32_t*>(b.data + b.size))[0] = value
    b.size += sizeof(int32_t)
    return True


cdef inline bint push_int64(Buffer b, int64_t value) noexcept nogil:
    if b.size + sizeof(int64_t) > b.capacity and not grow(b):
        return False
    (<int64_t*>(b.data + b.size))[0] = value
    b.size += sizeof(int64_t)
    return True


cdef inline bint push_float(Buffer b, float value) noexcept nogil:
    if b.size + sizeof(float) > b.capacity and not grow(b):
        return False
    (<float*>(b.data + b.size))[0] = value
    b.size += sizeof(float)
    return True


# Rows -----------------------------------------------------------------------------------------

cdef enum Fault:
    FINE, NO_MEMORY, NO_LABEL, NEGATIVE_LABEL, LABEL_RANGE, LABEL_TWICE, NO_TARGET, BAD_TARGET,
    TARGET_RANGE, NO_FEATURE, NEGATIVE_FEATURE, FEATURE_RANGE, FEATURE_TWICE, BAD_VALUE,
    VALUE_RANGE, QUERY_ID, TOO_MANY_ROWS


cdef int compare_int32(const void* a, const void* b) noexcept nogil:
    cdef int32_t x = (<const int32_t*>a)[0], y = (<const int32_t*>b)[0]
    return (x > y) - (x < y)


cdef int compare_uint64(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0], y = (<const uint64_t*>b)[0]
    return (x > y) - (x < y)


cdef inline bint is_blank(char c) noexcept nogil:
    return c == c' ' or c == c'\t' or c == c'\r'


@cython.final
cdef class RowParser:
    """Parse blocks of whole lines into CSR arrays.

    Parameters
    ----------
    svmlight : bool
        True: leading blanks mean nothing, blank lines are skipped and ``#`` starts a comment.
        False (XMC text): a row that starts with a blank has no labels, a blank line is a row
        with neither labels nor features.
    multilabel : bool
        True: rows start with ``label,label``, non-negative integers. False: with one number.
    first_feature, end_feature : int
        Feature ids must lie in ``[first_feature, end_feature)``.
    end_label : int
        Label ids must lie in ``[0, end_label)``.
    n_rows : int
        More rows than this are refused; -1 for no limit.
    first_line : int
        The number of the first line fed, for messages.

    Attributes
    ----------
    rows, line : int
        Rows and lines read so far (the lines include those before `first_line`).
    smallest_feature, largest_feature, largest_label : int
        Extreme ids so far; the smallest is 2^31 - 1 and the largest are -1 when there was none.
    largest_feature_line : int
        Where `largest_feature` first occurred.
    """

    cdef bint svmlight, multilabel
    cdef int64_t first_feature, end_feature, end_label, n_rows
    cdef readonly int64_t rows, line, smallest_feature, largest_feature, largest_label
    cdef readonly int64_t largest_feature_line
    cdef Buffer indptr, indices, data, label_indptr, labels, targets, pairs
    cdef const char* fault_at
    cdef int64_t fault_id
    cdef bint taken

    def __init__(self, bint svmlight, bint multilabel, int64_t first_feature, int64_t end_feature,
                 int64_t end_label, int64_t n_rows=-1, int64_t first_line=1):
        self.svmlight = svmlight
        self.multilabel = multilabel
        self.first_feature = first_feature
        # Ids are stored as int32.
        self.end_feature = min(end_feature, <int64_t>1 << 31)
        self.end_label = min(end_label, <int64_t>1 << 31)
        self.n_rows = n_rows
        self.rows = 0
        self.line = first_line - 1
        self.smallest_feature = (<int64_t>1 << 31) - 1
        self.largest_feature = -1
        self.largest_label = -1
        self.largest_feature_line = 0
        self.indptr = Buffer(np.int64)
        self.indices = Buffer(np.int32)
        self.data = Buffer(np.float32)
        self.label_indptr = Buffer(np.int64)
        self.labels = Buffer(np.int32)
        self.targets = Buffer(np.float32)
        self.pairs = Buffer(np.uint64)
        self.taken = False
        if not (push_int64(self.indptr, 0) and push_int64(self.label_indptr, 0)):
            raise MemoryError("no memory to read rows")

    def feed(self, const unsigned char[::1] text not None):
        """Parse lines; the last byte must be a newline.

        Raises
        ------
        ValueError
            For the first bad line: its number, what is wrong and the offending text.
        """
        cdef const char* p
        cdef const char* end
        cdef Fault fault = FINE
        if self.taken:
            raise ValueError("the rows were already taken")
        if text.shape[0] == 0:
            return
        if text[text.shape[0] - 1] != c'\n':
            raise ValueError("a block must end with a newline")
        p = <const char*>&text[0]
        end = p + text.shape[0]
        with nogil:
            while p < end:
                self.line += 1
                fault = self.parse_line(p)
                if fault != FINE:
                    break
                p = <const char*>memchr(p, c'\n', end - p) + 1
        if fault != FINE:
            self.complain(fault)

    cdef Fault parse_line(self, const char* p) noexcept nogil:
        """Parse one line, which ends with a newline: no byte beyond that is looked at."""
        cdef Fault fault
        cdef const char* after
        cdef int64_t i = 0, previous = -1
        cdef size_t first = self.indices.size
        cdef bint sorted_ids = True, svmlight = self.svmlight, labelled
        cdef float value = 0

        labelled = not is_blank(p[0])
        while is_blank(p[0]):
            p += 1
        if svmlight:
            if p[0] == c'\n' or p[0] == c'#':
                return FINE
            labelled = True
        self.fault_at = p
        if 0 <= self.n_rows <= self.rows:
            return FINE if p[0] == c'\n' else TOO_MANY_ROWS
        if labelled and p[0] != c'\n':
            fault = self.parse_labels(&p)
            if fault != FINE:
                return fault
        if self.multilabel and not push_int64(
                self.label_indptr, <int64_t>(self.labels.size // sizeof(int32_t))):
            return NO_MEMORY

        while True:
            while is_blank(p[0]):
                p += 1
            if p[0] == c'\n' or (svmlight and p[0] == c'#'):
                break
            self.fault_at = p
            after = parse_id(p, &i)
            if after == NULL or after[0] != c':':
                if p[0] == c'-' and c'0' <= p[1] <= c'9':
                    return NEGATIVE_FEATURE
                if svmlight and p[0] == c'q' and p[1] == c'i' and p[2] == c'd' and p[3] == c':':
                    return QUERY_ID
                return NO_FEATURE
            if i < self.first_feature or i >= self.end_feature:
                return FEATURE_RANGE
            p = parse_float32(after + 1, &value)
            if p == NULL or not (is_blank(p[0]) or p[0] == c'\n' or (svmlight and p[0] == c'#')):
                return BAD_VALUE
            if fabs(value) == INFINITY:
                return VALUE_RANGE
            if i <= previous:
                sorted_ids = False
            previous = i
            if i > self.largest_feature:
                self.largest_feature = i
                self.largest_feature_line = self.line
            if i < self.smallest_feature:
                self.smallest_feature = i
            if not (push_int32(self.indices, <int32_t>i) and push_float(self.data, value)):
                return NO_MEMORY
        if not sorted_ids:
            fault = self.sort_features(first)
            if fault != FINE:
                return fault
        if not push_int64(self.indptr, <int64_t>(self.indices.size // sizeof(int32_t))):
            return NO_MEMORY
        self.rows += 1
        return FINE

    cdef Fault parse_labels(self, const char** place) noexcept nogil:
        """Read what stands before the features; a row may start with its first feature."""
        cdef const char* p = place[0]
        cdef const char* after
        cdef size_t first = self.labels.size
        cdef int64_t i = 0, previous = -1, k, n
        cdef int32_t* ids
        cdef bint sorted_ids = True
        cdef float value = 0
        if not self.multilabel:
            after = parse_float32(p, &value)
            if after != NULL and after[0] == c':':
                return NO_TARGET
            if after == NULL or not (is_blank(after[0]) or after[0] == c'\n' or after[0] == c'#'):
                return BAD_TARGET
            if fabs(value) == INFINITY:
                return TARGET_RANGE
            place[0] = after
            return FINE if push_float(self.targets, value) else NO_MEMORY
        if self.svmlight and p[0] == c'q' and p[1] == c'i' and p[2] == c'd' and p[3] == c':':
            return QUERY_ID
        while True:
            self.fault_at = p
            after = parse_id(p, &i)
            if after == NULL:
                if p[0] == c'-' and c'0' <= p[1] <= c'9':
                    # A feature in first place is not a label, and is named as what it is.
                    after = parse_id(p + 1, &i)
                    return NEGATIVE_FEATURE if after[0] == c':' else NEGATIVE_LABEL
                return NO_LABEL
            if after[0] == c':' and self.labels.size == first:
                return FINE
            if not (after[0] == c',' or is_blank(after[0]) or after[0] == c'\n'
                    or (self.svmlight and after[0] == c'#')):
                return NO_LABEL
            if i >= self.end_label:
                return LABEL_RANGE
            if i <= previous:
                sorted_ids = False
            previous = i
            if i > self.largest_label:
                self.largest_label = i
            if not push_int32(self.labels, <int32_t>i):
                return NO_MEMORY
            if after[0] != c',':
                place[0] = after
                break
            p = after + 1
        if not sorted_ids:
            ids = <int32_t*>(self.labels.data + first)
            n = <int64_t>((self.labels.size - first) // sizeof(int32_t))
            qsort(ids, n, sizeof(int32_t), compare_int32)
            for k in range(1, n):
                if ids[k] == ids[k - 1]:
                    self.fault_id = ids[k]
                    return LABEL_TWICE
        return FINE

    cdef Fault sort_features(self, size_t first) noexcept nogil:
        """Sort the last row's features, which start at byte `first` of both buffers."""
        cdef int32_t* ids = <int32_t*>(self.indices.data + first)
        cdef char* values = self.data.data + first      # float32, moved as bits
        cdef int64_t k, n = <int64_t>((self.indices.size - first) // sizeof(int32_t))
        cdef uint64_t* pairs
        cdef uint32_t bits = 0
        while self.pairs.capacity < <size_t>n * sizeof(uint64_t):
            if not grow(self.pairs):
                return NO_MEMORY
        pairs = <uint64_t*>self.pairs.data
        for k in range(n):
            memcpy(&bits, values + k * sizeof(float), sizeof(float))
            pairs[k] = <uint64_t>ids[k] << 32 | bits
        qsort(pairs, n, sizeof(uint64_t), compare_uint64)
        for k in range(n):
            ids[k] = <int32_t>(pairs[k] >> 32)
            bits = <uint32_t>pairs[k]            # the low half
            memcpy(values + k * sizeof(float), &bits, sizeof(float))
            if k > 0 and ids[k] == ids[k - 1]:
                self.fault_id = ids[k]
                return FEATURE_TWICE
        return FINE

    cdef complain(self, Fault fault):
        cdef Py_ssize_t n = 0
        error = interrupted.pop(get_ident(), None)
        if error is not None:
            raise error
        if fault == NO_MEMORY:
            raise MemoryError(f"no memory for the rows up to line {self.line}")
        if fault == LABEL_TWICE:
            raise ValueError(f"line {self.line}: label {self.fault_id} occurs twice")
        if fault == FEATURE_TWICE:
            raise ValueError(f"line {self.line}: feature {self.fault_id} occurs twice")
        while not (is_blank(self.fault_at[n]) or self.fault_at[n] == c'\n') and n < 60:
            n += 1
        found = repr(self.fault_at[:n].decode("ascii", "backslashreplace"))
        number = self.fault_at[:n].partition(b":")[2].lower().lstrip(b"+-")
        if fault == BAD_TARGET:
            number = self.fault_at[:n].lower().lstrip(b"+-")
        if number in (b"nan", b"inf", b"infinity"):
            fault = VALUE_RANGE if fault == BAD_VALUE else TARGET_RANGE
        whose = "" if self.svmlight else "the header's "
        said = {
            NO_LABEL: "expected label ids (non-negative integers separated by commas)",
            NEGATIVE_LABEL: "a label id is negative",
            LABEL_RANGE: f"a label id is outside {whose}0 to {self.end_label - 1}",
            NO_TARGET: "expected a number before the features",
            BAD_TARGET: "expected a number",
            TARGET_RANGE: "a target is not finite in float32",
            NO_FEATURE: "expected feature:value",
            NEGATIVE_FEATURE: "a feature id is negative",
            FEATURE_RANGE: f"a feature id is outside {whose}{self.first_feature} to "
                           f"{self.end_feature - 1}",
            BAD_VALUE: "a feature's value is not a number",
            VALUE_RANGE: "a feature's value is not finite in float32",
            QUERY_ID: "query ids are not supported",
            TOO_MANY_ROWS: f"expected the end of the file after {self.n_rows} rows",
        }[fault]
        raise ValueError(f"line {self.line}: {said}, found {found}")

    def take(self):
        """End the parsing and hand over the arrays.

        Returns
        -------
        indptr, indices, data : ndarray of int64, int32, float32
            The features, ids sorted within each row and without duplicates.
        label_indptr, labels : ndarray of int64, int32
            The same of the labels; empty unless `multilabel`.
        targets : ndarray of float32, one a row; empty if `multilabel`.
        """
        self.taken = True
        return (self.indptr.array(), self.indices.array(), self.data.array(),
                self.label_indptr.array(), self.labels.array(), self.targets.array())


# Writing --------------------------------------------------------------------------------------

cdef inline char* write_int(char* out, int64_t value) noexcept nogil:
    cdef char[24] reverse
    cdef int n = 0
    if value < 0:
        out[0] = c'-'
        out += 1
        value = -value
    while True:
        reverse[n] = <char>(c'0' + value % 10)
        n += 1
        value = value // 10
        if value == 0:
            break
    while n > 0:
        n -= 1
        out[0] = reverse[n]
        out += 1
    return out


cdef char* write_float32(char* out, float value) noexcept nogil:
    """Write the shortest decimal that reads back as `value` (finite); at most 16 bytes."""
    cdef double size = fabs(<double>value), scaled
    cdef int exponent, precision, shift
    cdef uint64_t digits = 0
    cdef float back = 0
    cdef char[24] text
    cdef int n
    if value < 0 or (value == 0 and 1 / <double>value < 0):
        out[0] = c'-'
        out += 1
    if size == 0:
        out[0] = c'0'
        return out + 1
    exponent = <int>floor(log10(size))
    shift = 0
    # 9 digits always suffice for float32.
    for precision in range(1, 10):
        shift = exponent - precision + 1                 # value = digits * 10^shift
        if shift > 0:
            scaled = size / POWER_OF_TEN[shift]
        else:
            scaled = size * POWER_OF_TEN[-shift]
        digits = <uint64_t>rint(scaled)
        if decimal_float32(digits, shift, &back) and back == <float>size:
            break
    while digits % 10 == 0:
        digits = digits // 10
        shift += 1
    n = <int>(write_int(text, <int64_t>digits) - text)
    exponent = shift + n - 1                             # of the first digit
    if 0 <= shift and exponent < 9:
        memcpy(out, text, n)
        out += n
        for _ in range(shift):
            out[0] = c'0'
            out += 1
    elif -5 <= exponent < 0:
        out[0] = c'0'
        out[1] = c'.'
        out += 2
        for _ in range(-exponent - 1):
            out[0] = c'0'
            out += 1
        memcpy(out, text, n)
        out += n
    elif 0 <= exponent < 9:
        memcpy(out, text, exponent + 1)
        out += exponent + 1
        out[0] = c'.'
        memcpy(out + 1, text + exponent + 1, n - exponent - 1)
        out += n - exponent
    else:
        out[0] = text[0]
        out += 1
        if n > 1:
            out[0] = c'.'
            memcpy(out + 1, text + 1, n - 1)
            out += n
        out[0] = c'e'
        out = write_int(out + 1, exponent)
    return out


def format_rows(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] data,
                const int64_t[::1] label_indptr, const int32_t[::1] labels):
    """Rows as XMC text, a line each.

    Parameters
    ----------
    indptr, label_indptr : int64 arrays of shape (n + 1,)
        Where the rows start in the arrays beside them; not necessarily from 0.
    indices, data : int32 and float32 arrays
        Non-negative feature ids and finite values.
    labels : int32 array
        Non-negative label ids.

    Returns
    -------
    bytearray
        Values are the shortest decimals that read back as the same float32.
    """
    cdef Py_ssize_t n = indptr.shape[0] - 1, row, k
    # An id takes 10 bytes at most, a value 16, and each a separator.
    cdef bytearray text = bytearray(
        n + 28 * (indptr[n] - indptr[0]) + 11 * (label_indptr[n] - label_indptr[0]))
    cdef char* start = text
    cdef char* out = start
    with nogil:
        for row in range(n):
            for k in range(label_indptr[row], label_indptr[row + 1]):
                if k > label_indptr[row]:
                    out[0] = c','
                    out += 1
                out = write_int(out, labels[k])
            for k in range(indptr[row], indptr[row + 1]):
                out[0] = c' '
                out = write_int(out + 1, indices[k])
                out[0] = c':'
                out = write_float32(out + 1, data[k])
            out[0] = c'\n'
            out += 1
    del text[out - start:]
    return text
