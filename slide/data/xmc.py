"""Readers and a writer of sparse data as text: XMC repository files and svmlight files."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import numpy as np
from scipy import sparse

from slide import _validation as check
from slide._files import written
from slide._kernels.textio import RowParser, format_rows
from slide.data.cache import Rows, check_cache, through_cache

__all__ = ["read_svmlight", "read_xmc", "write_xmc"]

BLOCK = 1 << 22  # bytes of text parsed at a time
WRITTEN_AT_ONCE = 1 << 18  # non-zeros formatted at a time
READ_AT_ONCE = 1 << 18  # bytes of compressed text
MOST_IDS = 2**31 - 1  # ids are int32
BOM = b"\xef\xbb\xbf"  # with which some editors start a text
HEADER = re.compile(rb"\s*([0-9]{1,18})[ \t]+([0-9]{1,18})[ \t]+([0-9]{1,18})\s*")


def read_xmc(
    path: str | os.PathLike[str],
    *,
    n_features: int | None = None,
    n_labels: int | None = None,
    cache: bool | str | os.PathLike[str] = False,
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Read a file in the text format of the extreme classification repository.

    The first line is ``points features labels``. Each further line is a point,
    ``label,label feature:value feature:value ...``, ids counting from 0. A point without labels
    starts with a blank (or with its first feature), a point without features ends after its
    labels, and an empty line is a point with neither. Empty lines after the last point are
    ignored. Ids may stand in any order. Explicit zeros are kept.

    Parameters
    ----------
    path : str or path-like
        The file; it may be compressed by gzip, whatever its name.
    n_features, n_labels : int, optional
        Columns of `X` and `Y`, at least those of the header, which is the default.
    cache : bool or path, default False
        Keep what was read in a binary file, and take it from there when the same file is read
        in the same way again. True: in `cache_directory`. A path: in that directory, which is
        made if need be. False: nothing is written or looked for.

    Returns
    -------
    X : csr_matrix of shape (points, n_features), float32 with int32 indices
        Features, sorted within each row.
    Y : csr_matrix of shape (points, n_labels), float32 with int32 indices
        1 for each of a point's labels.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not in this format: a missing or wrong header, text that is no number, ids
        that are negative or beyond the header's counts, an id given twice in a row, values that
        are NaN or infinite in float32, too few or too many rows, or a damaged gzip file. The
        message names the file, the line and the offending text.

    Notes
    -----
    Beside the two matrices only a block of some megabytes of text is held in memory. Indices
    are int32 up to 2^31 - 1 non-zeros; SciPy widens them beyond that.

    A file in the cache is parsed again when its size, its times of modification and change or
    the fingerprint of its content (of the whole of a file up to 1 MB; of both ends and 64
    blocks of 4 kB of a larger one) differ. Not noticed is a change between those blocks that
    keeps the size and hides both times, as only Windows, where there is no time of change, or a
    clock set back allow. What is in the cache is checked completely: a damaged entry gives a
    `RuntimeWarning` and the file is parsed, and so does a cache that cannot be written. Only
    against people who may write in its directory there is no protection: they can put other
    numbers there, though nothing that runs. An entry takes about half the space of the plain
    text: `cache_info` says how much, `clear_cache` frees it.

    Examples
    --------
    >>> import os, tempfile
    >>> from slide.data import read_xmc
    >>> path = os.path.join(tempfile.mkdtemp(), "train.txt")
    >>> with open(path, "w") as file:
    ...     _ = file.write("2 4 3\\n0,2 1:0.5 3:2\\n 0:1\\n")
    >>> X, Y = read_xmc(path)
    >>> X.shape, Y.toarray().tolist()
    ((2, 4), [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    """
    name = os.fspath(path)
    n_features = _count("n_features", n_features)
    n_labels = _count("n_labels", n_labels)

    def parse() -> Rows:
        return _parse_xmc(name, n_features, n_labels)

    rows = through_cache(name, check_cache(cache), {"reader": "xmc"}, parse)
    rows = _widened(rows, n_features, n_labels, parse)
    return _features(rows), _labels(rows)


def _parse_xmc(name: str, n_features: int | None, n_labels: int | None) -> Rows:
    with _described(name), _open(name) as file:
        blocks = _lines(file)
        block = next(blocks, None)
        if block is None:
            raise ValueError("the file is empty, expected a header 'points features labels'")
        first = bytes(block[: _end_of_line(block)])
        match = HEADER.fullmatch(first)
        if match is None:
            shown = first[:60].rstrip().decode("ascii", "backslashreplace")
            raise ValueError(f"line 1: expected a header 'points features labels', found {shown!r}")
        points, features, labels = (int(n) for n in match.groups())
        for kind, n in (("features", features), ("labels", labels)):
            if n > MOST_IDS:
                raise ValueError(f"line 1: {n} {kind} are more than {MOST_IDS}")
        parser = RowParser(
            svmlight=False,
            multilabel=True,
            first_feature=0,
            end_feature=features,
            end_label=labels,
            n_rows=points,
            first_line=2,
        )
        parser.feed(block[len(first) :])
        for block in blocks:
            parser.feed(block)
        if parser.rows < points:
            raise ValueError(
                f"line {parser.line}: the file ends after {parser.rows} rows, "
                f"but its header announces {points}"
            )
        for arg, wanted, n in (
            ("n_features", n_features, features),
            ("n_labels", n_labels, labels),
        ):
            if wanted is not None and wanted < n:
                raise ValueError(f"line 1: the header announces {n}, more than {arg}={wanted}")
    return Rows._make([*parser.take(), features, labels])


def read_svmlight(
    path: str | os.PathLike[str],
    *,
    n_features: int | None = None,
    n_labels: int | None = None,
    multilabel: bool = True,
    zero_based: bool | str = "auto",
    cache: bool | str | os.PathLike[str] = False,
) -> tuple[sparse.csr_matrix, Any]:
    """Read a file in svmlight (libsvm) format.

    Each line is a point, ``labels feature:value feature:value ... # comment``. Blank lines and
    lines of comment are skipped. Ids may stand in any order. Explicit zeros are kept.

    Parameters
    ----------
    path : str or path-like
        The file; it may be compressed by gzip, whatever its name.
    n_features, n_labels : int, optional
        Columns of `X` and `Y`; by default one more than the largest id in the file. Give both
        to files that belong together, such as a training and a test set.
    multilabel : bool, default True
        True: a line starts with label ids separated by commas, counting from 0, or with its
        first feature when it has no labels. False: it starts with one number, a class or a
        value to predict.
    zero_based : bool or "auto", default "auto"
        Whether feature ids count from 0 or from 1. "auto" takes them to count from 1 when no
        feature 0 occurs; say which it is for files that belong together. ``python -m slide``
        reads with True.
    cache : bool or path, default False
        Keep what was read in a binary file, and take it from there when the same file is read
        in the same way again. True: in `cache_directory`. A path: in that directory, which is
        made if need be. False: nothing is written or looked for.

    Returns
    -------
    X : csr_matrix of shape (points, n_features), float32 with int32 indices
        Features, sorted within each row and counted from 0.
    Y : csr_matrix of shape (points, n_labels), or ndarray of shape (points,), float32
        1 for each of a point's labels; the numbers if not `multilabel`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        As in `read_xmc`, apart from the header; also for a query id (``qid:``), which nothing
        here could use.

    Warns
    -----
    UserWarning
        If "auto" takes ids to count from 1 though `n_features` is given: a file that belongs to
        others may just lack feature 0.

    Notes
    -----
    The cache is that of `read_xmc`, with the same guarantees.

    Examples
    --------
    >>> import os, tempfile
    >>> from slide.data import read_svmlight
    >>> path = os.path.join(tempfile.mkdtemp(), "train.svm")
    >>> with open(path, "w") as file:
    ...     _ = file.write("-1 1:0.5 4:2\\n+1 2:1 # a comment\\n")
    >>> X, y = read_svmlight(path, multilabel=False)
    >>> X.toarray().tolist(), y.tolist()
    ([[0.5, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]], [-1.0, 1.0])
    """
    name = os.fspath(path)
    n_features = _count("n_features", n_features)
    n_labels = _count("n_labels", n_labels)
    if not (isinstance(zero_based, (bool, np.bool_)) or zero_based == "auto"):
        raise ValueError(f"zero_based must be True, False or 'auto', not {zero_based!r}")
    if zero_based != "auto":
        zero_based = bool(zero_based)
    multilabel = bool(multilabel)
    options = {"reader": "svmlight", "multilabel": multilabel, "zero_based": zero_based}

    def parse() -> Rows:
        return _parse_svmlight(name, n_features, n_labels, multilabel, zero_based)

    rows = through_cache(name, check_cache(cache), options, parse)
    shifted = zero_based == "auto" and len(rows.indices) > 0 and rows.indices.min() > 0
    if shifted:
        rows.indices[:] -= 1
        rows = rows._replace(n_features=rows.n_features - 1)
    rows = _widened(rows, n_features, n_labels, parse)
    if shifted and n_features is not None:
        warnings.warn(
            f"{name}: no feature 0 occurs, so ids are taken to count from 1; say zero_based=False "
            "if they do, and zero_based=True if they count from 0 in other files that belong to it",
            stacklevel=2,
        )
    return _features(rows), _labels(rows) if multilabel else rows.targets


def _parse_svmlight(
    name: str,
    n_features: int | None,
    n_labels: int | None,
    multilabel: bool,
    zero_based: bool | str,
) -> Rows:
    """Parse a file; with "auto" the ids are as they stand in it, and `n_features` is checked as if
    they were shifted where they count from 1."""
    first_id = 0 if zero_based == "auto" else int(not zero_based)
    last_shift = 0 if zero_based is True else 1  # ids may count from 1
    most = MOST_IDS if n_features is None else n_features
    with _described(name), _open(name) as file:
        parser = RowParser(
            svmlight=True,
            multilabel=multilabel,
            first_feature=first_id,
            end_feature=most + last_shift,
            end_label=MOST_IDS if n_labels is None else n_labels,
        )
        for block in _lines(file):
            parser.feed(block)
        if parser.line == 0:
            raise ValueError("the file is empty")
        if zero_based == "auto":
            first_id = int(parser.largest_feature >= 0 and parser.smallest_feature > 0)
        found = parser.largest_feature + 1 - first_id if parser.largest_feature >= 0 else 0
        if found > most:
            raise ValueError(
                f"line {parser.largest_feature_line}: a feature id is outside 0 to "
                f"{most - 1}, found '{parser.largest_feature}'"
            )
    if zero_based is False:
        rows = Rows._make([*parser.take(), found, parser.largest_label + 1])
        rows.indices[:] -= 1
        return rows
    return Rows._make([*parser.take(), parser.largest_feature + 1, parser.largest_label + 1])


def write_xmc(path: str | os.PathLike[str], X: Any, Y: Any) -> None:
    """Write a file in the text format of the extreme classification repository.

    What is written reads back by `read_xmc` as the same matrices: each value is the shortest
    decimal that gives the same float32. Explicit zeros of `X` are kept.

    Parameters
    ----------
    path : str or path-like
        The file to write; compressed by gzip if the name ends with ``.gz``. The file appears,
        or replaces an older one, only once it is complete. A pipe or a device is written into.
    X : sparse matrix or array of shape (points, n_features)
        Features.
    Y : sparse matrix or array of shape (points, n_labels)
        Indicator of the labels: 0 or 1.

    Raises
    ------
    TypeError
        One of them is a masked array or holds anything else than real numbers.
    ValueError
        `X` and `Y` differ in rows, one has more than 2^31 - 1 columns, `X` has a value that is NaN
        or infinite in float32, or `Y` one that is neither 0 nor 1.
    """
    X = _canonical("X", X)
    Y = _canonical("Y", Y)
    if X.shape[0] != Y.shape[0]:
        raise ValueError(f"X has {X.shape[0]} rows and Y has {Y.shape[0]}")
    bad = (Y.data != 0) & (Y.data != 1)
    if bad.any():
        at = int(np.argmax(bad))
        place = check.entry_place("Y", Y.indptr, Y.indices, at)
        raise ValueError(f"{place} = {Y.data[at]} is neither 0 nor 1")
    if not Y.data.all():
        Y = Y.copy()
        Y.eliminate_zeros()
    with written(path) as out:
        out.write(f"{X.shape[0]} {X.shape[1]} {Y.shape[1]}\n".encode())
        for text in _formatted(X, Y):
            out.write(text)


def _formatted(X: sparse.csr_matrix, Y: sparse.csr_matrix) -> Iterator[bytearray]:
    """The rows as text, in pieces of bounded size."""
    starts = X.indptr.astype(np.int64)
    label_starts = Y.indptr.astype(np.int64)
    # Rows count too, so that empty ones come in bounded numbers.
    weight = starts + label_starts + np.arange(len(starts))
    row = 0
    while row < X.shape[0]:
        end = int(np.searchsorted(weight, weight[row] + WRITTEN_AT_ONCE, side="right")) - 1
        end = min(max(end, row + 1), X.shape[0])
        yield format_rows(
            starts[row : end + 1],
            X.indices.astype(np.int32, copy=False),
            X.data,
            label_starts[row : end + 1],
            Y.indices.astype(np.int32, copy=False),
        )
        row = end


def _canonical(name: str, M: Any) -> sparse.csr_matrix:
    """`M` as float32 CSR without duplicates, its ids sorted; the caller's matrix is not touched."""
    if sparse.issparse(M):
        shape = M.shape
        values, indices, indptr = check.csr_arrays(name, M)
        values = check.real_array(name, values)
        # Not in a small type, in which sums of duplicates would overflow.
        values = values.astype(np.result_type(values, np.float32), copy=False)
        M = sparse.csr_matrix((values, indices, indptr), shape)
        if not M.has_canonical_format:
            M = M.copy()
            M.sum_duplicates()
    else:
        M = check.real_array(name, M)
        if M.ndim != 2:
            raise ValueError(f"{name} must have 2 dimensions, not {M.ndim}")
    if M.shape[1] > MOST_IDS:
        raise ValueError(f"{name} has {M.shape[1]} columns, more than {MOST_IDS}")
    return sparse.csr_matrix(check.check_features(M, M.shape[1], name))


def _count(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not 0 <= value <= MOST_IDS:
        raise ValueError(f"{name} must be between 0 and {MOST_IDS}, not {value}")
    return int(value)


def _widened(
    rows: Rows, n_features: int | None, n_labels: int | None, parse: Callable[[], Rows]
) -> Rows:
    """The rows with as many columns as asked for.

    A parser returns, and the cache keeps, the file's own: one entry serves all.
    """
    if n_features is None:
        n_features = rows.n_features
    if n_labels is None:
        n_labels = rows.n_labels
    if n_features < rows.n_features or n_labels < rows.n_labels:
        rows = parse()  # raises: it knows the line that has more
    return rows._replace(n_features=n_features, n_labels=n_labels)


def _features(rows: Rows) -> sparse.csr_matrix:
    return _csr(rows.data, rows.indices, rows.indptr, rows.n_features)


def _labels(rows: Rows) -> sparse.csr_matrix:
    return _csr(None, rows.label_ids, rows.label_indptr, rows.n_labels)


def _csr(
    data: np.ndarray | None, indices: np.ndarray, indptr: np.ndarray, n_columns: int
) -> sparse.csr_matrix:
    if data is None:
        data = np.ones(len(indices), np.float32)
    if indptr[-1] <= MOST_IDS:
        indptr = indptr.astype(np.int32)
    result = sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, n_columns))
    result.has_canonical_format = True  # the parser sorted the ids and refused duplicates
    return result


class _Source(Protocol):
    def readinto(self, view: memoryview, /) -> int: ...


@contextlib.contextmanager
def _described(name: str) -> Iterator[None]:
    """Put the file's name before what is wrong with its content."""
    try:
        yield
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{name}: damaged or truncated gzip file ({error})") from error
    except ValueError as error:
        raise ValueError(f"{name}, {error}") from None


@contextlib.contextmanager
def _open(name: str) -> Iterator[_Source]:
    """Open a file to read, through gzip if its first bytes say so."""
    with open(name, "rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            yield _Gunzip(file)
        else:
            yield file


class _Gunzip:
    """The plain bytes of a gzip file, read in large pieces (several times as fast as `gzip`)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(wbits=31)  # 31: a gzip header, and its check sum

    def readinto(self, view: memoryview) -> int:
        while True:
            if self._zlib.eof:
                # Members may follow each other, and zeros may pad the file.
                rest = self._zlib.unused_data.lstrip(b"\0")
                while not rest:
                    read = self._file.read(READ_AT_ONCE)
                    if not read:
                        return 0
                    rest = read.lstrip(b"\0")
                self._zlib = zlib.decompressobj(wbits=31)
            else:
                rest = self._zlib.unconsumed_tail or self._file.read(READ_AT_ONCE)
            # Called without input too: the decompressor may still hold output.
            out = self._zlib.decompress(rest, len(view))
            if out:
                view[: len(out)] = out
                return len(out)
            if not rest and not self._zlib.eof:
                raise EOFError("it ends before its end marker")


def _end_of_line(block: memoryview) -> int:
    """Where the first line of a block ends, its newline included."""
    size = 256
    while True:
        at = bytes(block[:size]).find(b"\n")
        if at >= 0:
            return at + 1
        size *= 4


def _lines(file: _Source) -> Iterator[memoryview]:
    """Blocks of whole lines, each valid until the next is asked for.

    A last line without a newline gets one, and a byte-order mark before the first is left out.
    """
    text = bytearray(BLOCK)
    kept = 0  # bytes of an unfinished line, at the start of `text`
    first = True
    while True:
        with memoryview(text) as view:
            n = file.readinto(view[kept:-1])
            if not n:
                if kept:
                    text[kept] = ord("\n")
                    yield view[_start(text, first) : kept + 1]
                return
            end = text.rfind(b"\n", kept, kept + n) + 1
            if end:
                yield view[_start(text, first) : end]
                first = False
                rest = kept + n - end
                text[:rest] = text[end : kept + n]
                kept = rest
                continue
        kept += n
        if kept > len(text) // 2:
            # A new object: the caller may still hold a view of the old one.
            text = text + bytes(len(text))


def _start(text: bytearray, first: bool) -> int:
    return len(BOM) if first and text.startswith(BOM) else 0
