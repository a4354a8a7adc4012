"""Readers of arrays in binary files: IDX files and the matrices of the NORB sets."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import struct
from collections.abc import Iterator

import numpy as np

from slide.data.xmc import _described, _Gunzip, _open, _Source

__all__ = ["read_idx", "read_norb"]

READ_AT_ONCE = 1 << 20  # bytes
DEFLATE_RATIO = 1032  # a match of 258 bytes takes 2 bits or more
MOST_DIMENSIONS = 32  # NumPy's before version 2
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NORB_PACKED = 0x1E3D4C52
NORB_TYPES = {
    0x1E3D4C51: "<f4",
    0x1E3D4C53: "<f8",
    0x1E3D4C54: "<i4",
    0x1E3D4C55: "u1",
    0x1E3D4C56: "<i2",
}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array from a file in IDX format, the format of MNIST's files.

    The file starts with two zero bytes, a byte for the type of the elements and one for the number
    of dimensions; then come the dimensions as 32-bit integers and the elements in C order, all
    of them big-endian.

    Parameters
    ----------
    path : str or path-like
        The file; it may be compressed by gzip, whatever its name.

    Returns
    -------
    ndarray
        Of the file's shape and type: uint8 (0x08), int8 (0x09), int16 (0x0B), int32 (0x0C),
        float32 (0x0D) or float64 (0x0E), in the machine's byte order.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The path is not that of a regular file, or the file is not in this format: a wrong magic
        number, more than 32 dimensions or none, fewer or more bytes than the dimensions announce,
        or a damaged gzip file. The message names the file, the place and what was found there.

    Notes
    -----
    No more memory is taken than the file has content for, whatever its header says, and no more
    content is unpacked than the header announces.

    Examples
    --------
    >>> import os, tempfile
    >>> from slide.data import read_idx
    >>> path = os.path.join(tempfile.mkdtemp(), "labels-idx1-ubyte")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    with _opened(os.fspath(path)) as file:
        magic = file.take(4, "magic number")
        zeros, code, ndim = struct.unpack(">HBB", magic)
        if zeros or code not in IDX_TYPES:
            types = ", ".join(f"{known:02x}" for known in IDX_TYPES)
            raise ValueError(
                "offset 0: expected the magic number of an IDX file, 00 00, a type (one of "
                f"{types}) and the number of dimensions; found {magic.hex(' ')}"
            )
        _check_dimensions(ndim, 3)
        shape = struct.unpack(f">{ndim}I", file.take(4 * ndim, "dimensions"))
        return file.rest(shape, IDX_TYPES[code])


def read_norb(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array from a file in the binary matrix format of the NORB sets.

    The file starts with a magic number, which says the type of the elements, the number of
    dimensions and the dimensions, three at least: what exceeds the number is ignored. All are
    32-bit integers. Then come the elements in C order. Everything is little-endian. (It is not
    the format of MATLAB, though these files' names end with ``.mat``, too.)

    Parameters
    ----------
    path : str or path-like
        The file; it may be compressed by gzip, whatever its name.

    Returns
    -------
    ndarray
        Of the file's shape and type: float32 (0x1e3d4c51), float64 (0x1e3d4c53), int32
        (0x1e3d4c54), uint8 (0x1e3d4c55) or int16 (0x1e3d4c56), in the machine's byte order.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        As in `read_idx`; also for a negative dimension, and for a packed matrix (0x1e3d4c52),
        whose layout the format's description does not give.

    Notes
    -----
    The format is described on the small NORB set's page (Huang and LeCun, 2005).

    Examples
    --------
    >>> import os, struct, tempfile
    >>> from slide.data import read_norb
    >>> path = os.path.join(tempfile.mkdtemp(), "cat.mat")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(struct.pack("<7i", 0x1E3D4C54, 1, 2, 1, 1, 4, 0))
    >>> read_norb(path)
    array([4, 0], dtype=int32)
    """
    with _opened(os.fspath(path)) as file:
        magic, ndim = struct.unpack("<Ii", file.take(8, "magic number and number of dimensions"))
        if magic == NORB_PACKED:
            raise ValueError(f"offset 0: found a packed matrix (0x{magic:08x}), which is not read")
        if magic not in NORB_TYPES:
            types = ", ".join(f"0x{known:08x}" for known in NORB_TYPES)
            raise ValueError(
                f"offset 0: expected the magic number of a NORB matrix, one of {types}; "
                f"found 0x{magic:08x}"
            )
        _check_dimensions(ndim, 4)
        stored = max(ndim, 3)
        shape = struct.unpack(f"<{stored}i", file.take(4 * stored, "dimensions"))[:ndim]
        for i, n in enumerate(shape):
            if n < 0:
                raise ValueError(f"offset {8 + 4 * i}: expected a dimension >= 0, found {n}")
        return file.rest(shape, NORB_TYPES[magic])


def _check_dimensions(ndim: int, offset: int) -> None:
    if not 1 <= ndim <= MOST_DIMENSIONS:
        raise ValueError(
            f"offset {offset}: expected 1 to {MOST_DIMENSIONS} dimensions, found {ndim}"
        )


@contextlib.contextmanager
def _opened(name: str) -> Iterator[_Reader]:
    """Open a file to read, through gzip if its first bytes say so."""
    status = os.stat(name)
    # Asked before opening it: that would wait for the writer of a pipe.
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
        raise ValueError(f"{name}: expected a regular file, found {kind}")
    with _described(name), _open(name) as source:
        yield _Reader(source, status.st_size, packed=isinstance(source, _Gunzip))


class _Reader:
    """The bytes of a file one after the other, and where they stand."""

    def __init__(self, source: _Source, size: int, *, packed: bool) -> None:
        self._source = source
        self._packed = packed
        self._offset = 0
        self._most = size * DEFLATE_RATIO if packed else size

    def take(self, n: int, what: str) -> bytearray:
        """The next n bytes; the memory grows with what the file really has."""
        left = self._most - self._offset
        if n > left:
            found = f"at most {left} in so small a gzip file" if self._packed else str(left)
            raise ValueError(f"offset {self._offset}: expected {n} bytes of {what}, found {found}")
        data = bytearray()
        while len(data) < n:
            piece = bytearray(min(n - len(data), READ_AT_ONCE))
            got = self._source.readinto(memoryview(piece))
            if not got:
                raise ValueError(
                    f"offset {self._offset}: expected {n} bytes of {what}, found {len(data)}"
                )
            data += memoryview(piece)[:got]
        self._offset += n
        return data

    def rest(self, shape: tuple[int, ...], code: str) -> np.ndarray:
        """What is left of the file, which must be an array of that shape."""
        dtype = np.dtype(code)
        n = math.prod(shape) * dtype.itemsize
        data = self.take(n, f"data of shape {shape}")
        # At the end of a gzip file, this is also what checks the sum of it all.
        if self._source.readinto(memoryview(bytearray(1))):
            raise ValueError(
                f"offset {self._offset}: expected the end of the file after data of shape "
                f"{shape}, found more bytes"
            )
        return np.ndarray(shape, dtype, data).astype(dtype.newbyteorder("="), copy=False)
