"""Reading the tables of an archived incident line by line; nothing in them is trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

from collector.archive import directory
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest

MAX_LINE_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 20
T = TypeVar("T")


def artifact_path(manifest: Manifest, collector: str, name: str) -> str | None:
    """Return the path of the artifact *name* of the first step with that *collector* that has it."""
    steps = (step for step in manifest.steps if step.collector == collector)
    paths = (artifact.path for step in steps for artifact in step.artifacts)
    return next((path for path in paths if path.rpartition("/")[2] == name), None)


def lines(incident: int, path: str | None) -> Iterator[bytes]:
    """
    Yield the lines of an artifact in the directory *incident*, at most `MAX_FILE_BYTES`; none if there is no such file.

    A line longer than `MAX_LINE_BYTES`, which no collector writes, ends them.
    """
    if path is None:
        return
    try:
        with directory.opened_file(path, incident) as fd, os.fdopen(os.dup(fd), "rb") as file:
            left = MAX_FILE_BYTES
            while (line := file.readline(MAX_LINE_BYTES)) and (left := left - len(line)) >= 0:
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    return
                yield line
    except (ArchiveError, OSError):
        return


def rows(incident: int, path: str | None, kind: type[T]) -> Iterator[T]:
    """Yield the rows of a ``jsonl`` artifact; what is not a *kind* is left out."""
    for line in lines(incident, path):
        try:
            yield decode(line, kind)
        except MalformedError:
            continue
