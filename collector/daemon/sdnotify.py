"""sd_notify(3): state and watchdog messages to the service manager."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping, Sequence

from collector.daemon.descriptor_store import StoredDescriptors, inherited


class ServiceManager:
    """
    The manager that started this process; without one, nothing is sent.

    Args:
        environ: Holds ``NOTIFY_SOCKET``, ``WATCHDOG_USEC``, ``WATCHDOG_PID``, ``FDSTORE`` (the unit sets it; systemd
            254 does so itself), and what is said of stored descriptors, which is taken out; by default this process's
            environment.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._status = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        own = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "") if own else ""
        self.watchdog_s = int(usec) / 1e6 / 2 if usec.isdigit() else None
        """Interval between pings, half of the watchdog's; ``None`` without a watchdog."""
        stored, keeps = inherited(environ), environ.get("FDSTORE", "0") not in ("", "0")
        self.descriptors = StoredDescriptors(self._send, stored) if self._address and keeps else None
        """What the manager keeps across a restart; ``None`` if it keeps nothing."""
        for fd in () if self.descriptors else stored.values():
            os.close(fd)

    def ready(self, status: str) -> None:
        """Report that start-up, or a reload, is over."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins; ``Type=notify-reload`` requires the time stamp."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)}")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows, if it is another one."""
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def ping(self) -> None:
        """Tell the watchdog that the loop still runs."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Ask for so much more time; while this is repeated in time, ``TimeoutStopSec=`` does not end the stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")
        if self.descriptors is not None:
            self.descriptors.stopping = True

    def _send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        if self._address:
            with contextlib.suppress(OSError):
                # Not `socket.send_fds`, which has an argument for the address and ignores it (Python 3.11 to 3.13).
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                self._socket.sendmsg(["\n".join(lines).encode()], rights, 0, self._address)
                return True
        return False
