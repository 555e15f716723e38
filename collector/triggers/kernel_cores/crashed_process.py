"""Who an offered dump is of, for certain: its pidfd stands for one process, whose ``/proc/PID`` is read meanwhile."""

from __future__ import annotations

import signal
import time
from typing import NamedTuple

import msgspec

from collector.host.dumping import crashed_thread, death_signal, private_bytes
from collector.host.files import Host
from collector.host.process_identity import identify_task
from collector.model.identity import Identity, with_identity
from collector.model.marker import DUMP, DYING_AT, Marker, MarkerKind
from collector.model.signals import signal_name
from collector.model.text import printable
from collector.triggers.kernel_cores.dump_offer import DumpOffer


class CrashedProcess(NamedTuple):
    """A process that dumps core; *thread* is the one that crashed, if it was found."""

    who: Identity
    signal: int | None
    thread: int | None
    thread_comm: str | None
    memory_bytes: int

    def marker(self, trigger: str, dump: str) -> Marker:
        """Return the marker of the crash; *dump* is what became of the offer."""
        how = f"died of {signal_name(self.signal)}" if self.signal else "died of a signal that dumps core"
        marker = Marker(
            kind=MarkerKind.DUMP,
            trigger=trigger,
            at_s=time.time(),
            reason=f"process {self.who.pid} ({printable(self.who.comm)}) {how}",
            thread=self.thread,
            signal=self.signal,
            attributes={"parent": str(self.who.parent), DYING_AT: f"{time.time():.6f}", DUMP: dump},
        )
        marker = with_identity(marker, self.who)
        if self.thread_comm in {None, self.who.comm}:
            return marker
        return msgspec.structs.replace(marker, thread_comm=printable(self.thread_comm or ""))


def crashed_process(host: Host, offer: DumpOffer) -> CrashedProcess | None:
    """
    Return who is offered; ``None`` if it is gone by now.

    What was read under its number was its own if it has not been reaped after that.
    """
    who = identify_task(host, offer.pid, image=True)
    thread = crashed_thread(host, offer.pid)
    task = None if thread in {None, offer.pid} else identify_task(host, thread or 0)
    why = offer.signal or death_signal(host, offer.pid)
    memory_bytes = private_bytes(host, offer.pid)
    try:
        signal.pidfd_send_signal(offer.pidfd, 0)
    except PermissionError:
        pass  # another user's, to a daemon without root: it is there
    except OSError:
        return None
    if who is None:
        return None
    return CrashedProcess(who, why, thread, None if task is None else task.comm, memory_bytes)
