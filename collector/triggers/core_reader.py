"""What a file in a watched directory is: whether it is finished, and the marker of the core that it holds."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Literal, NamedTuple

from collector.host.corehead import fingerprint, head_in_memory, whole_bytes
from collector.host.corepattern import CoreName, CorePattern, core_pattern
from collector.model.marker import CoreRef, Marker, MarkerKind
from collector.model.text import printable
from collector.triggers.base import TriggerContext
from collector.triggers.core_identity import CoreHead, core_head, with_process
from collector.triggers.core_names import identify
from collector.triggers.dir_reader import DirReader, PinnedFile, refusal
from collector.triggers.directory import Directory, FileEvent
from collector.triggers.own_links import OwnLinks

# Other directories in which a core is looked for if it was moved before its incident got to it.
MAX_OTHERS = 8
# systemd-coredump and abrt publish a core when it is complete.
COMPLETE = frozenset({"systemd", "abrt"})


class FileState(NamedTuple):
    """An unfinished file, to see whether it still grows."""

    size_bytes: int
    mtime_ns: int


class CoreFileReader(DirReader):
    """Makes markers of core files."""

    def __init__(
        self,
        ctx: TriggerContext,
        unprivileged: Literal["attribute", "refuse"],
        own_links: OwnLinks,
        directories: Callable[[], Iterable[Directory]],
    ) -> None:
        super().__init__()
        self._ctx = ctx
        self._unprivileged = unprivileged
        self._own_links = own_links
        self._directories = directories
        self._pattern: CorePattern | None = None

    def unfinished_state(self, file: PinnedFile, before: FileState | None) -> tuple[FileState | None, bool]:
        """Return a file's state, and whether it is finished."""
        info, written = file.stat(), file.is_written
        if not stat.S_ISREG(info.st_mode):
            return None, True
        now = FileState(info.st_size, info.st_mtime_ns)
        # Between its creation and the writer's open, a file has length 0 and no writer yet.
        return now, not (written or ((written is None or info.st_size == 0) and now != before))

    def may_grow(self, file: PinnedFile, marker: Marker, *, within_s: float) -> bool:
        """
        Return whether a core, written to *within_s*, is shorter than its headers say.

        The kernel and systemd write one at once.
        """
        core, info = marker.core, file.stat()
        if core is None or core.whole_bytes <= core.size_bytes:
            return False
        writer = marker.attributes["writer"]
        by_kernel = writer == "kernel" and stat.S_IMODE(info.st_mode) == 0o600  # a shell's files are 0644
        return not by_kernel and writer not in COMPLETE and time.time() - info.st_mtime < within_s

    def marker(self, event: FileEvent, file: PinnedFile) -> Marker:
        """Return the marker of a file."""
        info = file.stat()
        path = os.path.join(event.directory.path, event.name)
        refused = refusal(file.fileno(), self._unprivileged, own_links=self._own_links.count(info))
        if refused is not None:
            return self._refused(path, info, refused)
        self._pattern = self._pattern or core_pattern(self._ctx.host)
        fd = file.fd
        head = head_in_memory(fd) if fd >= 0 else b""
        writer, said = identify(path, fd, self.dir_fd(event.directory), self._pattern)
        claims = core_head(fd, head) if fd >= 0 else CoreHead()
        attributes = {"writer": writer}
        if info.st_uid != 0 and said.uid not in {None, info.st_uid}:
            attributes["claimed_uid"] = str(said.uid)
        marker = Marker(
            kind=MarkerKind.CORE_FILE,
            trigger=self._ctx.id,
            at_s=float(said.at_s or time.time()),
            reason=f"core file {printable(path)}",
            comm=printable(said.comm) if said.comm else None,
            exe=printable(said.exe) if said.exe else None,
            uid=_uid(info.st_uid, said, claims, writer),
            signal=said.signal,
            core=_core(path, info, head, file.handle(), self._others(event.directory)),
            attributes=attributes,
        )
        return with_process(marker, said, claims, self._ctx.host)

    def _others(self, directory: Directory) -> tuple[str, ...]:
        """Return the first other directories that are watched, as far as their paths are plain text."""
        others = (one.path for one in self._directories() if one is not directory and one.path.isprintable())
        return tuple(islice(others, MAX_OTHERS))

    def _refused(self, path: str, info: os.stat_result, why: str) -> Marker:
        """Return the marker of a file that is recorded but not collected."""
        return Marker(
            kind=MarkerKind.CORE_FILE, trigger=self._ctx.id, at_s=time.time(), uid=info.st_uid, refused=why,
            core=_core(path, info), reason=f"core file {printable(path)}",
        )  # fmt: skip


def _uid(owner: int, said: CoreName, claims: CoreHead, writer: str) -> int | None:
    """
    Return whose crash it is: of the owner, unless that is root, who alone may speak for somebody else.

    A handler that runs as root owns the cores of everybody; what the kernel has noted in one is the real uid.
    """
    if owner != 0 or said.uid is not None:
        return owner or said.uid
    return claims.uid if claims.uid is not None else owner if writer == "kernel" else None


def _core(
    path: str, info: os.stat_result, head: bytes = b"", handle: str = "", watched: tuple[str, ...] = ()
) -> CoreRef:
    """Return what pins a file, from its fstat, its beginning, its handle, and where else it may be looked for."""
    return CoreRef(
        path=printable(path), device=info.st_dev, inode=info.st_ino, size_bytes=info.st_size,
        mtime_ns=info.st_mtime_ns, uid=info.st_uid, head=fingerprint(head),
        whole_bytes=whole_bytes(head), handle=handle, watched=watched,
    )  # fmt: skip
