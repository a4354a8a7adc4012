"""A binary cache of text files that were read: the next start does not parse them again.

An entry is one file in the layout of safetensors (an 8-byte length, a JSON header, the arrays one
after the other), so that it is replaced in one step and other tools can look into it. An entry is
trusted for nothing: it is read into memory of this process and checked completely there, because
the kernels rely on what a parser guarantees and a mapped file could change under them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slide._memory import check_memory

__all__ = ["CacheInfo", "cache_directory", "cache_info", "clear_cache"]

VERSION = 2  # of the entries and of what the parsers return: counts up when either changes
ENTRY = re.compile(r"[0-9a-f]{32}\.rows(\.[^.]+\.part)?")
MOST_HEADER = 1 << 20  # bytes
AT_ONCE = 1 << 20  # bytes read, or elements checked, at a time: they stay in the processor's caches

# What the fingerprint looks at: both ends of the text and blocks in between.
EDGE = 1 << 16
SAMPLE = 1 << 12
N_SAMPLES = 64
WHOLE = 1 << 20  # a file of so many bytes or fewer is looked at completely


class Rows(NamedTuple):
    """What a parser found; see `slide._kernels.textio.RowParser.take`."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    label_indptr: np.ndarray
    label_ids: np.ndarray
    targets: np.ndarray
    n_features: int
    n_labels: int


# Name in `Rows`, type in safetensors, type in NumPy: little-endian on every machine.
ARRAYS = (
    ("indptr", "I64", "<i8"),
    ("indices", "I32", "<i4"),
    ("data", "F32", "<f4"),
    ("label_indptr", "I64", "<i8"),
    ("label_ids", "I32", "<i4"),
    ("targets", "F32", "<f4"),
)


class CacheInfo(NamedTuple):
    """Size of a cache.

    Attributes
    ----------
    directory : Path
        Where it is; it need not exist.
    n_files : int
        Entries, one for each file and way to read it.
    n_bytes : int
        Their size on the disk.
    """

    directory: Path
    n_files: int
    n_bytes: int


def cache_directory() -> Path:
    """Return the directory that ``cache=True`` stands for.

    Returns
    -------
    Path
        The environment variable ``SLIDE_CACHE`` names it, where ``~`` is the home directory.
        Otherwise it is ``slide`` in
        ``XDG_CACHE_HOME``, which is ``~/.cache`` unless set. It need not exist.

    Raises
    ------
    OSError
        The user has no home directory, and it is asked for.

    Examples
    --------
    >>> import os
    >>> from slide.data import cache_directory
    >>> os.environ["SLIDE_CACHE"] = "/scratch/slide"
    >>> cache_directory().as_posix()
    '/scratch/slide'
    >>> del os.environ["SLIDE_CACHE"]
    """
    named = os.environ.get("SLIDE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        # A relative path there is invalid, by the XDG specification.
        if home and os.path.isabs(home):
            return Path(home) / "slide"
        return Path.home() / ".cache" / "slide"
    except RuntimeError as error:
        raise OSError(f"no home directory for a cache, set SLIDE_CACHE: {error}") from None


def cache_info(directory: str | os.PathLike[str] | None = None) -> CacheInfo:
    """Return how much a cache holds.

    Parameters
    ----------
    directory : path, optional
        What was given as ``cache``; by default `cache_directory`.

    Returns
    -------
    CacheInfo
        Directory, number of entries, bytes.

    Examples
    --------
    >>> import tempfile
    >>> from slide.data import cache_info
    >>> cache_info(tempfile.mkdtemp()).n_bytes
    0
    """
    where = cache_directory() if directory is None else Path(directory)
    n_files = n_bytes = 0
    for entry in _entries(where):
        with contextlib.suppress(FileNotFoundError):  # replaced or removed by somebody else
            n_bytes += entry.stat().st_size
            n_files += 1
    return CacheInfo(where, n_files, n_bytes)


def clear_cache(directory: str | os.PathLike[str] | None = None) -> CacheInfo:
    """Remove all entries of a cache. Other files in its directory stay.

    Parameters
    ----------
    directory : path, optional
        What was given as ``cache``; by default `cache_directory`.

    Returns
    -------
    CacheInfo
        What was removed.

    Raises
    ------
    OSError
        An entry cannot be removed.
    """
    where = cache_directory() if directory is None else Path(directory)
    n_files = n_bytes = 0
    for entry in _entries(where):
        with contextlib.suppress(FileNotFoundError):
            size = entry.stat().st_size
            entry.unlink()
            n_bytes += size
            n_files += 1
    return CacheInfo(where, n_files, n_bytes)


def _entries(directory: Path) -> Iterator[Path]:
    """Files of this module, those a stopped process left unfinished included."""
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(p for p in directory.iterdir() if ENTRY.fullmatch(p.name))


# Reading through the cache ----------------------------------------------------------------------


def check_cache(cache: Any) -> Path | bool:
    """Return the argument `cache` as a directory, or as True or False."""
    if isinstance(cache, (bool, np.bool_)):
        return bool(cache)
    if not isinstance(cache, (str, os.PathLike)):
        raise TypeError(f"cache must be True, False or a directory, not {cache!r}")
    if not os.fspath(cache):
        raise ValueError("cache must be True, False or a directory, not an empty string")
    return Path(cache)


def through_cache(
    name: str, cache: Path | bool, options: dict[str, Any], parse: Callable[[], Rows]
) -> Rows:
    """Return `parse()`, or what it returned earlier.

    Parameters
    ----------
    name : str
        The file that `parse` reads.
    cache : Path or bool
        Where to look and keep; False: nowhere.
    options : dict
        All that what is kept depends on beside the file, the reader's name included.
    parse : callable
        Its errors are passed on and nothing is kept.
    """
    if cache is False:
        return parse()
    try:
        key = _key(name, options)
    except (OSError, ValueError):
        return parse()  # says what is wrong with the file or its name
    if key is None:
        _warn(f"{name} is not a regular file: it was not cached")
        return parse()
    try:
        directory = cache_directory() if cache is True else cache
    except OSError as error:
        _warn(f"{name} was not cached: {error}")
        return parse()
    # The name says which file and how it is read, not its state: a new state replaces the old.
    identity = json.dumps([key["path"], options], sort_keys=True)
    entry = directory / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.rows"
    try:
        rows = _load(entry, key)
    except FileNotFoundError:
        rows = None
    except (OSError, ValueError, MemoryError) as error:
        _warn(f"the cache of {name} is not usable, the file is parsed instead: {entry}: {error}")
        rows = None
    if rows is not None:
        return rows
    rows = parse()
    try:
        if _key(name, options) == key:  # otherwise it changed meanwhile: of which state are they?
            _store(entry, key, rows, os.stat(name).st_mode)
    except OSError as error:
        _warn(f"{name} was not cached: {error}")
    return rows


def _warn(message: str) -> None:
    # The level of the caller of `read_xmc` or `read_svmlight`.
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _key(name: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """All that must be as it was for an entry to be valid; None if it is not a regular file."""
    # Before it is opened: to open a pipe would wait for its other end.
    if not stat.S_ISREG(os.stat(name).st_mode):
        return None
    with open(name, "rb", buffering=0) as file:
        state = os.fstat(file.fileno())
        return {
            "path": os.fsdecode(os.path.abspath(name)),
            "size": state.st_size,
            "mtime_ns": state.st_mtime_ns,
            # Unlike the time of modification nobody can set it back. (The creation on Windows.)
            "ctime_ns": state.st_ctime_ns,
            "fingerprint": _fingerprint(file, state.st_size),
            "options": options,
        }


def _fingerprint(file: io.FileIO, size: int) -> str:
    """A hash of the whole of a small file, and of both ends and samples of a larger one."""
    digest = hashlib.sha256()
    if size <= WHOLE:
        parts = [(0, size)]
    else:
        step = size // (N_SAMPLES + 1)
        parts = [(0, EDGE), *((k * step, SAMPLE) for k in range(1, N_SAMPLES + 1))]
        parts.append((size - EDGE, EDGE))
    for at, length in parts:
        file.seek(at)
        digest.update(file.read(length))
    return digest.hexdigest()


# Entries ----------------------------------------------------------------------------------------


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.view(np.uint8))  # type: ignore[arg-type]


def _header(body: str) -> bytes:
    """The start of an entry; `body` has all that is in it."""
    at = 0
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "slide-rows",
            "version": str(VERSION),
            "body": body,
            "crc32": f"{zlib.crc32(body.encode()):08x}",
        }
    }
    lengths = json.loads(body)["lengths"]
    for (name, code, dtype), length in zip(ARRAYS, lengths, strict=True):
        end = at + length * np.dtype(dtype).itemsize
        header[name] = {"dtype": code, "shape": [length], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    return len(text).to_bytes(8, "little") + text


def _store(entry: Path, key: dict[str, Any], rows: Rows, mode: int) -> None:
    """Write an entry, completely or not at all."""
    arrays = [np.ascontiguousarray(getattr(rows, name), dtype=dtype) for name, _, dtype in ARRAYS]
    body = json.dumps(
        {
            "key": key,
            "n_features": rows.n_features,
            "n_labels": rows.n_labels,
            "lengths": [len(array) for array in arrays],
            "crc32": [zlib.crc32(_bytes(array)) for array in arrays],
        }
    )
    entry.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, because a rename is atomic only within a file system.
    handle, partial = tempfile.mkstemp(prefix=f"{entry.name}.", suffix=".part", dir=entry.parent)
    try:
        with open(handle, "wb") as file:
            file.write(_header(body))
            for array in arrays:
                file.write(_bytes(array))
        # Who may read the text may read its cache, and nobody else.
        os.chmod(partial, (stat.S_IMODE(mode) & 0o666) | 0o600)
        # Not flushed to the disk: an entry that a crash cuts off fails its checks.
        os.replace(partial, entry)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def _load(entry: Path, key: dict[str, Any]) -> Rows | None:
    """Read an entry; None if it is of another state of the file.

    Raises
    ------
    FileNotFoundError
        There is none.
    OSError, ValueError, MemoryError
        It cannot be read or is not as `_store` writes it.
    """
    if not stat.S_ISREG(os.stat(entry).st_mode):
        raise ValueError("it is not a regular file")
    with open(entry, "rb", buffering=0) as file:
        body = _read_body(file)
        if body is None or body["key"] != key:
            return None
        lengths, sums = body["lengths"], body["crc32"]
        size = sum(n * np.dtype(a[2]).itemsize for n, a in zip(lengths, ARRAYS, strict=True))
        found, expected = os.fstat(file.fileno()).st_size, file.tell() + size
        if found != expected:
            raise ValueError(f"it has {found} bytes instead of {expected}")
        check_memory(f"the cache of {key['path']}", size)
        arrays = []
        for (name, _, dtype), length, total in zip(ARRAYS, lengths, sums, strict=True):
            array = np.empty(length, dtype)
            if _fill(file, _bytes(array)) != total:
                raise ValueError(f"wrong check sum of {name}")
            arrays.append(array.astype(array.dtype.newbyteorder("="), copy=False))
    rows = Rows._make([*arrays, body["n_features"], body["n_labels"]])
    _check(rows, key["options"])
    return rows


def _read_body(file: io.FileIO) -> dict[str, Any] | None:
    """Read the start of an entry; None if another version wrote it."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MOST_HEADER:
        raise ValueError("it is no cache of rows")
    text = file.read(length)
    try:
        metadata = json.loads(text)["__metadata__"]
        if metadata["format"] != "slide-rows":
            raise ValueError("it is no cache of rows")
        if metadata["version"] != str(VERSION):
            return None
        # The header repeats what the body says; a single flipped bit is a difference.
        if _header(metadata["body"]) != start + text:
            raise ValueError("its header is damaged")
        body = json.loads(metadata["body"])
        counts = [*body["lengths"], body["n_features"], body["n_labels"]]
        if not all(type(n) is int and 0 <= n < 1 << 60 for n in counts):
            raise ValueError("its header has impossible counts")
        if len(body["crc32"]) != len(ARRAYS) or not isinstance(body["key"], dict):
            raise ValueError("its header has impossible entries")
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged header ({error})") from None
    return body


def _fill(file: io.FileIO, out: memoryview) -> int:
    """Read into an array and return the check sum."""
    total, at = 0, 0
    while at < len(out):
        n = file.readinto(out[at : at + AT_ONCE])
        if not n:
            raise ValueError("it was cut off while it was read")
        total = zlib.crc32(out[at : at + n], total)
        at += n
    return total


def _check(rows: Rows, options: dict[str, Any]) -> None:
    """Refuse what no parser returns: the kernels read where these arrays point."""
    multilabel = options.get("multilabel", True)
    if len(rows.indptr) < 1:
        raise ValueError("indptr is empty")
    n = len(rows.indptr) - 1
    if max(rows.n_features, rows.n_labels) > 2**31:
        raise ValueError("its header has impossible counts")
    if len(rows.data) != len(rows.indices):
        raise ValueError(f"{len(rows.data)} values of {len(rows.indices)} features")
    if len(rows.label_indptr) != (n + 1 if multilabel else 1):
        raise ValueError(f"label_indptr has length {len(rows.label_indptr)} for {n} rows")
    if len(rows.targets) != (0 if multilabel else n):
        raise ValueError(f"{len(rows.targets)} targets of {n} rows")
    _check_ids("indices", rows.indptr, rows.indices, rows.n_features)
    _check_ids("label_ids", rows.label_indptr, rows.label_ids, rows.n_labels)
    for name, values in (("data", rows.data), ("targets", rows.targets)):
        # A NaN anywhere is the smallest and the largest.
        if len(values) and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise ValueError(f"{name} has a value that is not finite")


def _check_ids(name: str, indptr: np.ndarray, ids: np.ndarray, end: int) -> None:
    """Refuse starts that go back or beyond, and rows whose ids are not ascending below `end`."""
    if indptr[0] != 0 or indptr[-1] != len(ids) or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"the starts of the rows of {name} are wrong")
    for at in range(0, len(ids), AT_ONCE):
        part = ids[at : at + AT_ONCE]
        if part.min() < 0 or part.max() >= end:
            raise ValueError(f"{name} has an id outside 0 to {end - 1}")
        part = ids[at : at + AT_ONCE + 1]
        # Only the next row may start again from a smaller id.
        starts = np.flatnonzero(part[1:] <= part[:-1]) + (at + 1)
        if (indptr[np.searchsorted(indptr, starts)] != starts).any():
            raise ValueError(f"{name} are not ascending within a row")
