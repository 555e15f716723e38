"""
The service manager's store of descriptors: what is in it outlives the daemon, until the unit stops for good.

Source: sd_notify(3), ``FDSTORE=1``; sd_listen_fds(3); systemd.service(5), ``FileDescriptorStoreMax=``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Send(Protocol):
    """Sends lines to the service manager, with descriptors; returns whether they have left."""

    def __call__(self, *lines: str, fds: Sequence[int] = ()) -> bool: ...


def inherited(environ: MutableMapping[str, str]) -> dict[str, int]:
    """
    Take the descriptors that the service manager passed to this process, by their names.

    What says so is removed from *environ*: no process that is started from here is to believe it.
    """
    pid, count, names = (environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, int] = {}
    named = [*names.split(":"), *[""] * int(count)]
    for fd, name in enumerate(named[: int(count)], FIRST_FD):
        os.set_inheritable(fd, False)
        if found.setdefault(name, fd) != fd:
            os.close(fd)  # a second one of that name
    return found


class StoredDescriptors:
    """
    What triggers keep in the store, each by names of its own.

    Args:
        send: Sends a message to the manager.
        found: What an earlier run stored.
    """

    def __init__(self, send: Send, found: dict[str, int]) -> None:
        self.stopping = False
        """Whether the daemon ends."""
        self._send = send
        self._found = found
        self._kept = set(found)

    def of(self, trigger: str) -> TriggerDescriptors:
        """Return the part that belongs to the trigger with that id."""
        return TriggerDescriptors(self, trigger)

    def take(self, name: str) -> int | None:
        """Return what an earlier run stored under *name*; the caller owns it."""
        return self._found.pop(name, None)

    def store(self, name: str, fd: int) -> bool:
        """Store *fd* in place of what has that name."""
        if name in self._kept:
            self._remove(name)
        self._kept.add(name)
        return self._send("FDSTORE=1", f"FDNAME={name}", fds=(fd,))

    def keep(self, triggers: Collection[str]) -> None:
        """Remove what belongs to none of *triggers*: one that is no longer configured, or an earlier release's."""
        for name in [name for name in self._kept if name.rpartition("/")[0] not in triggers]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._kept.remove(name)
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")
        if (fd := self.take(name)) is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


@dataclass(frozen=True, slots=True)
class TriggerDescriptors:
    """The part of one trigger; equal for the same trigger, so that a reload keeps it open."""

    everything: StoredDescriptors
    trigger: str

    @property
    def stopping(self) -> bool:
        return self.everything.stopping

    def stored(self, name: str) -> int | None:
        return self.everything.take(f"{self.trigger}/{name}")

    def store(self, name: str, fd: int) -> bool:
        return self.everything.store(f"{self.trigger}/{name}", fd)
