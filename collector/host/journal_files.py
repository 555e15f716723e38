"""The files of the systemd journal that may have entries of the last minutes of this boot."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from collector.host.clock import boot_s
from collector.host.files import READ_FLAGS, Host, OpenFd, open_regular
from collector.host.journal_file import JournalDamagedError, JournalFile
from collector.model.errors import StepError
from collector.model.text import escape_name

DIRECTORIES = ("/run/log/journal", "/var/log/journal")
"""Volatile and persistent. Source: journald.conf(5), ``Storage=``."""

SUFFIXES = (".journal", ".journal~")  # the latter: journald set it aside, because it was not closed or is damaged
MAX_NAMES = 4096
MAX_FILES = 32
"""Most files that are read, those written last first: journald has one open for the system and each user."""

REFUSED = (errno.EACCES, errno.EPERM)


@dataclass(slots=True)
class JournalFiles:
    """
    What was found.

    *files* are open, newest first. *seen* counts files whatever their boot, *refused* those without permission;
    *unread* says what else could not be read, and why.
    """

    files: list[JournalFile] = field(default_factory=list)
    seen: int = 0
    refused: int = 0
    unread: list[str] = field(default_factory=list)


def open_journal(host: Host, stack: ExitStack, *, boot: bytes, since_us: int) -> JournalFiles:
    """
    Open the files of this machine whose last entry is of *boot*, and after *since_us* on CLOCK_MONOTONIC.

    Those of other machines, which were sent here, are elsewhere. Namespaces of the journal (``LogNamespace=``) count.
    The pages that reading brings into the page cache are dropped when *stack* closes.
    """
    found = JournalFiles()
    for mtime_ns, path in sorted(_paths(host, found), reverse=True):
        if len(found.files) == MAX_FILES:
            found.unread.append(f"{escape_name(path)} and older files: {MAX_FILES} are read")
            break
        try:
            _open(path, stack, found, boot=boot, since_us=since_us)
        except OSError as exc:
            if exc.errno in REFUSED:
                found.refused += 1
            elif exc.errno != errno.ENOENT:  # rotated and deleted meanwhile
                found.unread.append(f"{escape_name(path)}: {exc.strerror}")
        except (JournalDamagedError, StepError) as exc:
            if mtime_ns >= (time.time() - boot_s()) * 1e9:  # one that was damaged boots ago is nobody's loss today
                found.unread.append(f"{escape_name(path)}: {exc}")
    return found


def _open(path: str, stack: ExitStack, found: JournalFiles, *, boot: bytes, since_us: int) -> None:
    with ExitStack() as opened:
        fd = opened.enter_context(OpenFd(open_regular(path)))
        file = JournalFile(fd, escape_name(os.path.basename(path)))
        opened.callback(file.reader.drop)
        if file.last_boot == boot and file.last_monotonic_us >= since_us:
            found.files.append(file)
            stack.push(opened.pop_all())


def _paths(host: Host, found: JournalFiles) -> Iterator[tuple[int, str]]:
    """Yield the files of this machine with the times of their last changes."""
    try:
        machine = host.read("/etc/machine-id", limit=64).decode(errors="replace").strip()
    except OSError:
        return
    for directory in map(host.path, DIRECTORIES):
        for name in _names(directory, found):
            if machine and (name == machine or name.startswith(f"{machine}.")):
                yield from _files(f"{directory}/{name}", found)


def _files(directory: str, found: JournalFiles) -> Iterator[tuple[int, str]]:
    for name in _names(directory, found):
        if not name.endswith(SUFFIXES):
            continue
        try:
            status = os.stat(f"{directory}/{name}", follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            found.seen += 1
            yield status.st_mtime_ns, f"{directory}/{name}"


def _names(directory: str, found: JournalFiles) -> list[str]:
    try:
        with OpenFd(os.open(directory, READ_FLAGS | os.O_DIRECTORY)) as fd:
            return sorted(os.listdir(fd))[:MAX_NAMES]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        if exc.errno in REFUSED:
            found.refused += 1
        else:
            found.unread.append(f"{escape_name(directory)}: {exc.strerror}")
        return []
