"""New files for whoever asked for one by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from collector.archive.directory import CREATE_FLAGS
from collector.model.errors import ArchiveError


def refuse_existing(path: str) -> None:
    """Raise `ArchiveError` if there is something at *path*."""
    if os.path.lexists(path):
        raise _exists(path)


@contextmanager
def new_file(path: str) -> Iterator[int]:
    """
    Yield a descriptor of a new file at *path*, mode 0600, which is removed if the block raises.

    Raises:
        ArchiveError: If it exists, or cannot be created.
    """
    try:
        out = os.open(path, CREATE_FLAGS, 0o600)
    except FileExistsError as exc:
        raise _exists(path) from exc
    except OSError as exc:
        hint = "name a file in a directory that you may write to"
        raise ArchiveError(f"cannot create {path}: {exc.strerror}", hint=hint) from exc
    try:
        yield out
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(out)


def _exists(path: str) -> ArchiveError:
    return ArchiveError(f"{path} exists already", hint="name a file that does not exist")
