"""The kernel's offer to dump a process, as it arrives: not believed yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from collector.host import coredump_socket
from collector.host.held_process import DumpSource

LeftOut = Callable[[str, int | None], None]
"""Called for what is not an offer: one word that says why, and the real uid of whoever sent it, if known."""

UNTRUSTED, GONE = "untrusted", "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOffer:
    """
    A process that is held while *stream_fd* is open; *pidfd* tells which one.

    *pid* is its number, and *signal* why it dies, as far as the pidfd tells.
    """

    source: DumpSource
    stream_fd: int
    pidfd: int
    pid: int
    signal: int | None = None

    def refuse(self) -> None:
        """Let the process end."""
        if self.source is DumpSource.SOCKET:
            coredump_socket.reject(self.stream_fd)
        os.close(self.stream_fd)
        os.close(self.pidfd)


class OfferSource(Protocol):
    """Where the offers come from; *pattern* is the ``core_pattern`` that leads there."""

    pattern: str
    pipe_limit: int | None

    @property
    def gone(self) -> str | None: ...

    def fileno(self) -> int: ...

    @property
    def queue_fd(self) -> int:
        """The listening socket in which crashes wait."""
        ...

    def offers(self) -> Iterator[DumpOffer | None]:
        """Yield what is offered now; ``None`` for what is not an offer."""
        ...

    def close(self, *, keep: bool) -> None: ...
