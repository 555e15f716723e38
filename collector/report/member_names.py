"""
Names for an export's files that a person can read, whatever the sources of the files were called.

Every name is relative, of the letters, digits and ``._+=@,-``; all else is ``%XX``, byte by byte, as in a URL. No
part of it begins with ``.`` or ``-``, none is longer than 200 bytes, and no two differ in upper and lower case only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

from collector.archive.layout import is_artifact_path
from collector.model.artifact import ArtifactRecord
from collector.model.text import unescape_name

MAX_BYTES = 180
"""Of what comes from a source; `.deleted` and a number may follow. File systems allow 255 a part."""

SAFE = "._+=@,-"
NUMBERED = re.compile(r"[0-9]{4,}")
"""What the archive calls files whose names somebody else chose."""

DELETED = " (deleted)"
LISTED = "/dev/shm/"  # noqa: S108 - only compared with


def member_names(artifacts: Iterable[ArtifactRecord], others: Iterable[str]) -> dict[str, str]:
    """
    Return the name of each file of an incident in its export, by its path.

    Args:
        artifacts: What the manifest lists.
        others: Paths of further files, which may be called anything.
    """
    found: dict[str, str] = {}
    taken = _Taken()
    renamed: list[tuple[str, str]] = []
    for artifact in artifacts:
        folder, _, last = artifact.path.rpartition("/")
        if artifact.source and NUMBERED.fullmatch(last):
            renamed.append((artifact.path, f"{folder}/{_from_source(artifact.source)}"))
        else:
            found[artifact.path] = taken.take(artifact.path)
    for path in others:
        if path not in found:
            found[path] = taken.take(path if is_artifact_path(path) else _safe(path))
    for path, name in renamed:
        found[path] = taken.take(name)
    return found


def _from_source(source: str) -> str:
    """Return a name for what was at *source*, which is escaped; that of a deleted file ends in ``.deleted``."""
    text = unescape_name(source).removeprefix(LISTED).lstrip("/")
    gone = text.endswith(DELETED)
    return _safe(text.removesuffix(DELETED)) + (".deleted" if gone else "")


def _safe(path: str) -> str:
    raw = path.encode("utf-8", "surrogateescape")
    parts = [_safe_part(part) for part in raw.split(b"/") if part]
    name = "/".join(parts) or "%"
    if len(name) > MAX_BYTES:
        name = "/".join(parts[-1:])  # the last part says most
    return _cut(name)


def _safe_part(part: bytes) -> str:
    text = quote_from_bytes(part, safe=SAFE).replace("~", "%7E")
    return f"%{part[0]:02X}{text[1:]}" if text[0] in ".-" else text


def _cut(name: str) -> str:
    """Cut *name* at its maximum, but not within a ``%XX``."""
    return re.sub(r"%[0-9A-F]?$", "", name[:MAX_BYTES]) if len(name) > MAX_BYTES else name


class _Taken:
    """The names given so far: of files, and of the directories that they need."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._numbers: dict[str, int] = {}

    def take(self, name: str) -> str:
        """Return *name*, or what it must be called to be a file beside the others: with ``~2``, ``~3`` and so on."""
        name = next((_flat(name, len(above)) for above in _above(name) if above in self._files), name)
        key, free = name.casefold(), name
        while free.casefold() in self._files or free.casefold() in self._folders:
            self._numbers[key] = self._numbers.get(key, 1) + 1
            free = f"{name}~{self._numbers[key]}"
        self._files.add(free.casefold())
        self._folders.update(_above(free))
        return free


def _flat(name: str, length: int) -> str:
    """Return a *name* whose first *length* characters are a file, and cannot be a directory too."""
    folder = name[: name.rindex("/", 0, length) + 1]
    return folder + _cut(name[len(folder) :].replace("/", "%2F"))


def _above(name: str) -> list[str]:
    """Return the directories that a file of that name is in."""
    parts = name.casefold().split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
