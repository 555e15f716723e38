"""Cores that were reported, to recognise one that was moved, compressed or appended to since: it is the same crash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import msgspec

from collector.host.corehead import fingerprint
from collector.host.successor import SECOND_NS, is_kept, stem
from collector.model.bounded import put_newest
from collector.model.marker import CoreRef, Marker

MAX_REPORTED = 1024
# The newest of root's, and of everybody else's, survive a restart: 300 bytes each in the ledger.
MAX_REMEMBERED = 128
# A script that compresses without keeping the time (`gzip -c core > core.gz && rm core`) does so soon after the crash.
SOON_NS = 3600 * SECOND_NS


class NumberedCore(msgspec.Struct, frozen=True):
    """A core as it is remembered; the higher the number, the newer."""

    number: int
    core: CoreRef


class ReportedCores:
    """
    The newest cores of a trigger.

    Args:
        remember: Stores a small text under a key, durably.
        recall: Returns such a text.
    """

    def __init__(self, remember: Callable[[str, str], None], recall: Callable[[str], str | None]) -> None:
        self._remember = remember
        self._by_inode: dict[tuple[int, int], CoreRef] = {}
        self._by_stem: dict[tuple[str, str], CoreRef] = {}
        self._by_mtime: dict[int, CoreRef] = {}
        self._by_time: dict[tuple[str, int], CoreRef] = {}
        self._reports: dict[tuple[int, int, float], None] = {}
        self._next = {True: 0, False: 0}
        for root in self._next:
            texts = (recall(_key(slot, root=root)) for slot in range(MAX_REMEMBERED))
            known = [msgspec.json.decode(text, type=NumberedCore) for text in texts if text]
            for one in sorted(known, key=lambda one: one.number):
                self._index(one.core)
                self._next[root] = one.number + 1

    def add(self, marker: Marker, core: CoreRef) -> None:
        """Remember the core of a marker that is reported, or where and what one that was reported is by now."""
        if (report := _report(marker)) is not None:
            put_newest(self._reports, report, None, MAX_REPORTED)
        if self._by_inode.get((core.device, core.inode)) == core:
            return
        self._index(core)
        root = core.uid == 0
        number = self._next[root]
        self._next[root] += 1
        text = msgspec.json.encode(NumberedCore(number, core)).decode()
        self._remember(_key(number % MAX_REMEMBERED, root=root), text)

    def knows(self, core: CoreRef, read_head: Callable[[], bytes], *, settled: bool) -> bool | None:
        """
        Return whether a file is a core that was reported, possibly moved, compressed or appended to since.

        Args:
            core: The file.
            read_head: Returns its beginning, as far as that is in memory.
            settled: It has been there for a while.

        Returns:
            ``None`` if it is not *settled* and that shows only when the earlier file goes.
        """
        before = self._by_inode.get((core.device, core.inode))
        if before is not None and (_state(core) == _state(before) or _continues(core, read_head(), before)):
            return True  # otherwise it may have been deleted, and its inode be another file's
        answers = [_follows(core, before, settled=settled) for before in self._others(core)]
        return True if True in answers else None if None in answers else False

    def is_rewritten(self, marker: Marker) -> bool:
        """
        Return whether it is an Apport report that was reported.

        Apport's hooks rewrite a complete report in place, but for another crash it makes another file.
        """
        return _report(marker) in self._reports

    def _others(self, core: CoreRef) -> Iterator[CoreRef]:
        """Yield the files that a file may have been made from; only their owner or root can have done that."""
        found = (self._by_stem.get(_stem(core)), self._by_mtime.get(core.mtime_ns), self._by_time.get(_time(core)))
        return (before for before in found if before is not None and core.uid in {before.uid, 0})

    def _index(self, core: CoreRef) -> None:
        put_newest(self._by_inode, (core.device, core.inode), core, MAX_REPORTED)
        put_newest(self._by_stem, _stem(core), core, MAX_REPORTED)
        put_newest(self._by_mtime, core.mtime_ns, core, MAX_REPORTED)
        put_newest(self._by_time, _time(core), core, MAX_REPORTED)


def _continues(core: CoreRef, head: bytes, before: CoreRef) -> bool:
    """Return whether a file that was written to has no core but that of *before*: emptied, appended to, or touched."""
    if not core.size_bytes:
        return True
    begins = bool(before.head) and fingerprint(head[: int(before.head.partition(":")[0])]) == before.head
    return begins and core.size_bytes >= before.size_bytes + (not core.whole_bytes)


def _follows(core: CoreRef, before: CoreRef, *, settled: bool) -> bool | None:
    """Return whether a file was made from that of *before*, by compressing, unpacking or moving it."""
    name, old_name = os.path.basename(core.path), os.path.basename(before.path)
    same_head = bool(core.head) and core.head == before.head
    if stem(name) == stem(old_name) and name != old_name and is_kept(core.mtime_ns, before.mtime_ns):
        return True
    if name != stem(name) and old_name == stem(old_name):
        soon = _stem(core) == _stem(before) and 0 <= core.mtime_ns - before.mtime_ns < SOON_NS
        may_be = soon or core.mtime_ns == before.mtime_ns
    else:
        copied = same_head if core.head and before.head else name == old_name
        may_be = copied and _state(core) == _state(before) and (name == old_name or core.whole_bytes > 0)
    # Without the original's time it must have its owner: else a file that somebody plants could hide root's next core.
    certain = core.mtime_ns == before.mtime_ns or core.uid == before.uid
    if not may_be or (certain and _is_gone(before)):
        return may_be
    # Programs remove the original last, and may set owner and time after they have closed the file; `cp -p` leaves it.
    return (same_head and name == old_name) if settled else None


def _report(marker: Marker) -> tuple[int, int, float] | None:
    """Return what an Apport report keeps when it is rewritten."""
    core = marker.core
    if core is None or marker.attributes.get("writer") != "apport":
        return None
    return core.device, core.inode, marker.at_s


def _is_gone(core: CoreRef) -> bool:
    """Return whether a core is no longer in its place."""
    try:
        info = os.lstat(core.path)
    except OSError:
        return True
    return (info.st_dev, info.st_ino) != (core.device, core.inode)


def _stem(core: CoreRef) -> tuple[str, str]:
    directory, name = os.path.split(core.path)
    return directory, stem(name)


def _state(core: CoreRef) -> tuple[int, int]:
    return core.size_bytes, core.mtime_ns


def _time(core: CoreRef) -> tuple[str, int]:
    return stem(os.path.basename(core.path)), core.mtime_ns // SECOND_NS


def _key(slot: int, *, root: bool) -> str:
    return f"cores.{'root' if root else 'others'}.{slot}"
