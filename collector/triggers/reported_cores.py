"""Cores that were reported, to recognise one that was moved, compressed or appended to since: it is the same crash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from collector.host.corehead import fingerprint
from collector.host.successor import SECOND_NS, is_kept, stem
from collector.model.decode import MalformedError, decode
from collector.model.marker import CoreRef, Marker
from collector.model.owners import Owners
from collector.model.shares import FairTable

MAX_REPORTED = 1024
# The newest of root's, and of everybody else's in fair shares, survive a restart: 300 bytes each in the ledger.
MAX_REMEMBERED = 128
# A script that compresses without keeping the time (`gzip -c core > core.gz && rm core`) does so soon after the crash.
SOON_NS = 3600 * SECOND_NS


class NumberedCore(msgspec.Struct, frozen=True):
    """A core as it is remembered; the higher the number, the newer."""

    number: int
    core: CoreRef


class ReportedCores:
    """
    The newest cores of a trigger, in fair shares for their owners.

    Args:
        remember: Stores a small text under a key, durably.
        recall: Returns such a text.
        owners: Tells whose cores are.
    """

    def __init__(
        self, remember: Callable[[str, str], None], recall: Callable[[str], str | None], owners: Owners
    ) -> None:
        self._remember = remember
        self._owners = owners
        self._cores: FairTable[int, CoreRef] = FairTable(MAX_REPORTED)
        self._newest: dict[tuple[object, ...], dict[int, int]] = {}
        """The number of each uid's newest core by what it may be recognised by."""
        self._reports: FairTable[tuple[int, int, float], None] = FairTable(MAX_REPORTED)
        self._slots: dict[bool, FairTable[int, int]] = {}
        """Where root's cores, and those of all others, are remembered, by their numbers."""
        self._next = 0
        for root in (True, False):
            self._slots[root] = FairTable(MAX_REMEMBERED)
            found = ((slot, _recalled(recall(_key(slot, root=root)))) for slot in range(MAX_REMEMBERED))
            known = [(one, slot) for slot, one in found if one is not None]
            for one, slot in sorted(known, key=lambda entry: entry[0].number):
                self._next = max(self._next, one.number)
                self._slots[root].put(self._index(one.core), slot, self._owner(one.core))

    def add(self, marker: Marker, core: CoreRef) -> None:
        """Remember the core of a marker that is reported, or where and what one that was reported is by now."""
        if (report := _report(marker)) is not None:
            self._reports.put(report, None, self._owner(core))
        if self._with_inode(core) == core:
            return
        number = self._index(core)
        text = msgspec.json.encode(NumberedCore(number, core)).decode()
        self._remember(_key(self._slot(number, core), root=core.uid == 0), text)

    def forget(self, device: int, inode: int) -> None:
        """Forget a core that was removed: the next one may get its inode, and begin alike."""
        for number, core in list(self._cores.items()):
            if _inode(core) == (device, inode):
                self._cores.pop(number)
                self._drop(number, core)
                self._remember_nothing(number, core)

    def _remember_nothing(self, number: int, core: CoreRef) -> None:
        """Free the place where a core is remembered."""
        slots = self._slots[core.uid == 0]
        if (slot := slots.pop(number)) is not None:
            self._remember(_key(slot, root=core.uid == 0), "")

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
        before = self._with_inode(core)
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

    def _owner(self, core: CoreRef) -> str:
        return self._owners.of(core.uid)

    def _with_inode(self, core: CoreRef) -> CoreRef | None:
        """Return the newest core with the inode of another."""
        numbers = self._newest.get(_inode(core))
        return self._cores.get(max(numbers.values())) if numbers else None

    def _others(self, core: CoreRef) -> Iterator[CoreRef]:
        """Yield the files that a file may have been made from; only their owner or root can have done that."""
        for key in _likeness(core):
            for uid, number in self._newest.get(key, {}).items():
                before = self._cores.get(number)
                if before is not None and core.uid in {uid, 0}:
                    yield before

    def _index(self, core: CoreRef) -> int:
        """Keep a core under the next number, and return that."""
        self._next += 1
        for key in (_inode(core), *_likeness(core)):
            self._newest.setdefault(key, {})[core.uid] = self._next
        displaced = self._cores.put(self._next, core, self._owner(core))
        if displaced is not None:
            self._drop(*displaced)
        return self._next

    def _drop(self, number: int, core: CoreRef) -> None:
        for key in (_inode(core), *_likeness(core)):
            numbers = self._newest.get(key, {})
            if numbers.get(core.uid) == number:
                del numbers[core.uid]
                if not numbers:
                    del self._newest[key]

    def _slot(self, number: int, core: CoreRef) -> int:
        """Return where a core is remembered: in a free place, or that of a core that has to make room."""
        slots, owner = self._slots[core.uid == 0], self._owner(core)
        free = set(range(MAX_REMEMBERED)) - {slot for _, slot in slots.items()}
        displaced = None if free else slots.put(number, 0, owner)
        slot = min(free) if displaced is None else displaced[1]
        slots.put(number, slot, owner)
        return slot


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


def _inode(core: CoreRef) -> tuple[object, ...]:
    return core.device, core.inode


def _likeness(core: CoreRef) -> tuple[tuple[object, ...], ...]:
    """Return what a core may have in common with one that was made from it."""
    name = stem(os.path.basename(core.path))
    return ("name", *_stem(core)), ("time", core.mtime_ns), ("name and second", name, core.mtime_ns // SECOND_NS)


def _stem(core: CoreRef) -> tuple[str, str]:
    directory, name = os.path.split(core.path)
    return directory, stem(name)


def _state(core: CoreRef) -> tuple[int, int]:
    return core.size_bytes, core.mtime_ns


def _recalled(text: str | None) -> NumberedCore | None:
    """Return a core that was remembered; ``None`` for a text that is damaged."""
    with suppress(MalformedError):
        return decode(text, NumberedCore) if text else None
    return None


def _key(slot: int, *, root: bool) -> str:
    return f"cores.{'root' if root else 'others'}.{slot}"
