"""Files that appear, or replace older ones, only once they are complete."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast


@contextlib.contextmanager
def replaced(path: Any) -> Iterator[Path]:
    """Give the path of a new, empty file, which takes the place of `path` at the end.

    It is beside `path`, because a rename is atomic only within a file system, and nobody else has
    its name. After an exception it is removed, and what was at `path` is as it was. Links are
    followed: what they lead to is replaced. A new file has the mode that files usually get, and
    one that replaces another has the other's.

    Raises
    ------
    ValueError
        If `path` is empty, a pipe or a device.
    OSError
        If it is a directory, there is no directory for it, or the file cannot be written there.
    """
    with _blamed_on(path):
        target, temporary, mode = _beside(path)
    try:
        yield temporary
        with _blamed_on(path):
            # At the end: a file that is made read-only could not be written, and some writers put
            # a file with a mode of their own in its place.
            os.chmod(temporary, mode)
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def written(path: Any) -> Iterator[BinaryIO]:
    """Open a file as `replaced` makes it; its bytes are compressed if its name ends with ``.gz``.

    A pipe or a device is written into.

    Raises
    ------
    OSError
        As in `replaced`.
    """
    path = os.fspath(path)
    with contextlib.ExitStack() as stack:
        place = path if is_stream(path) else stack.enter_context(replaced(path))
        file: BinaryIO = stack.enter_context(open(place, "wb"))
        if path.endswith(".gz"):
            # No name and time: the same data give the same bytes.
            packed = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0)
            file = cast(BinaryIO, stack.enter_context(packed))
        yield file


def check_writable(path: Any) -> None:
    """Raise now what `replaced` would raise after the work whose result is to be written."""
    with _blamed_on(path):
        _, temporary, _ = _beside(path)
        os.remove(temporary)


def is_stream(path: Any) -> bool:
    """Return whether there is something at `path` that is neither a file nor a directory."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _beside(path: Any) -> tuple[Path, Path, int]:
    """Make an empty file beside what `path` leads to; return both and the mode that it is to have.

    Until it has that mode, nobody else may read in it what they might not read at `path`.
    """
    if not os.fspath(path):
        raise ValueError("the path of the file to write is empty")
    if is_stream(path):
        raise ValueError(f"{os.fspath(path)}: a pipe or a device, which no file can replace")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no directory {target.parent}")
    old = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(target)
    if old is not None and hasattr(os, "geteuid"):
        folder = os.stat(target.parent)
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, old.st_uid, folder.st_uid):
            raise PermissionError(
                errno.EPERM, "somebody else's file, in a directory where only they may replace it"
            )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    mode = 0o666 if old is None else 0o600
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    return target, temporary, (os.stat(temporary) if old is None else old).st_mode & 0o777


@contextlib.contextmanager
def _blamed_on(path: Any) -> Iterator[None]:
    """Name `path` in what the system refuses, and not the file beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
