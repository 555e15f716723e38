"""
A small process that writes the metrics' file, whatever its disk does.

Creating a file takes seconds on a disk that others saturate, and never ends on one that is gone: that must cost
neither the supervisor nor a worker, which a crash may need at that moment.
"""

from __future__ import annotations

import contextlib
import os
import socket

from collector.archive import directory
from collector.host import process
from collector.host.files import Host, OpenFd
from collector.host.passing import receive_fds
from collector.host.trusted_path import find_directory
from collector.model.errors import CollectorError

PATH_LIMIT = 4096
TEXT_LIMIT = 8 << 20
PROBLEM_LENGTH = 500
MODE = 0o644
"""node_exporter runs as another user."""

NICE = 10
WRITTEN = b"\0"
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace_file(path: str, text: bytes) -> None:
    """
    Write *text* to a hidden file beside *path*, then give it that name: a reader finds a whole one, old or new.

    Whatever has that name is replaced, never followed. Nothing is synced: after a power cut, the next one is written.

    Raises:
        StepError: If the way to its directory leads through a symlink that others may have put there.
        OSError: From open(2), write(2) or rename(2); the old file stays as it is.
    """
    parent, name = os.path.split(path)
    hidden = f".{name}.new"  # node_exporter reads `*.prom`
    with OpenFd(find_directory(Host(), parent).fd) as dir_fd:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden, dir_fd=dir_fd)  # of a writer that was killed
        fd = os.open(hidden, CREATE_FLAGS, 0o600, dir_fd=dir_fd)
        try:
            with OpenFd(fd):
                directory.write_all(fd, text)
                os.fchmod(fd, MODE)
            os.rename(hidden, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(hidden, dir_fd=dir_fd)
            raise


def serve(sock: socket.socket) -> None:
    """For each path that arrives on *sock*, with a descriptor of the text, write the file and answer how that went."""
    process.die_with_parent()
    process.set_oom_score_adj(process.OOM_FIRST)
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    while True:
        path, fds, _ = receive_fds(sock, PATH_LIMIT, 1)
        if not path:
            return  # the daemon has ended
        sock.send(_written(os.fsdecode(path), fds[0]) if fds else b"no descriptor is left")


def _written(path: str, text_fd: int) -> bytes:
    """Write the file; return `WRITTEN`, or why that failed."""
    try:
        with OpenFd(text_fd):
            replace_file(path, os.pread(text_fd, TEXT_LIMIT, 0))
    except CollectorError as exc:
        problem = "; ".join(filter(None, (str(exc), exc.hint)))
    except FileNotFoundError:
        problem = "there is no such directory; create it, and let root own it"
    except PermissionError as exc:
        problem = f"{exc.strerror}; root itself needs write permission, since the service has no CAP_DAC_OVERRIDE"
    except OSError as exc:
        problem = exc.strerror or str(exc)
    else:
        return WRITTEN
    return problem.encode(errors="backslashreplace")[:PROBLEM_LENGTH]
