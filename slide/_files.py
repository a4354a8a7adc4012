"""Files that appear, or replace older ones, only once they are complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replaced(path: Any) -> Iterator[Path]:
    """Give the path of a new, empty file, which takes the place of `path` at the end.

    It is beside `path`, because a rename is atomic only within a file system, and nobody else has
    its name. After an exception it is removed, and what was at `path` is as it was.

    Raises
    ------
    OSError
        If there is no such directory, or it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    # With the mode that files usually get.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
