"""
When the crashed process died, and whether a segment of its name was created only after that.

Both are known by the wall clock alone: tmpfs and the file system of the core take their times from the same kernel, so
they can be compared, unless the clock was set in between or the core's times are not this kernel's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from collector.host import clock, syscalls
from collector.host.corefile import open_core
from collector.host.files import Host, OpenFd
from collector.host.filesystem import REMOTE, kind
from collector.model.errors import StepError
from collector.model.marker import DYING_AT, Marker

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """
    When a process died, in nanoseconds since the epoch.

    Args:
        after_ns: It was certainly dead after this, if the core has the times of its writing.
        copied_ns: When the file itself was created. If that is later, somebody gave it an older time: a copy, or a
            core that was compressed.
        remote: The file system of another machine, if the core is on one.
    """

    after_ns: int
    copied_ns: int
    remote: str = ""


def death_of(host: Host, marker: Marker) -> Death | None:
    """
    Return when the marker's process was certainly dead; ``None`` without a core, which has no other times.

    If the kernel announced its end, no segment is its own that was created later; a handler may write the core much
    later. Of the core's times, some file systems round down to whole seconds.
    """
    core, announced_s = marker.core, marker.attributes.get(DYING_AT)
    if core is None:
        return None
    after_ns = core.mtime_ns if core.mtime_ns % SECOND_NS else core.mtime_ns + SECOND_NS
    if announced_s is not None:
        announced_ns = int(float(announced_s) * SECOND_NS)
        return Death(after_ns=min(after_ns, announced_ns), copied_ns=announced_ns)
    try:
        with OpenFd(open_core(host, core)) as fd:
            born_ns, found = syscalls.birth_time_ns("", fd), kind(fd)
    except (OSError, StepError):
        return Death(after_ns=after_ns, copied_ns=after_ns)
    return Death(after_ns=after_ns, copied_ns=born_ns or after_ns, remote=found if found in REMOTE else "")


def is_later(death: Death, born_ns: int) -> bool:
    """Return whether a segment of that time of birth is later than the death, by the wall clock."""
    return born_ns > death.after_ns


def doubt(death: Death, born_ns: int) -> str:
    """Return why the wall clock cannot tell whether a segment is older than the death; empty if it can."""
    now_ns = time.time_ns()
    if max(born_ns, death.after_ns - SECOND_NS) > now_ns:
        return "the clock was set back, or is not the one of the core: a time lies in the future"
    if not is_later(death, born_ns):
        return ""
    if born_ns - death.after_ns <= (back_s := clock.set_back_s()) * SECOND_NS:
        return f"the clock was set back by {back_s:.3g} s"
    if death.remote:
        return f"the core is on {death.remote}, whose clock may be another"
    if born_ns <= death.copied_ns:
        return "the core is a copy, or its time was set"
    return ""
