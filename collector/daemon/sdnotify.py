"""sd_notify(3): state and watchdog messages to the service manager."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class ServiceManager:
    """
    The manager that started this process; without one, nothing is sent.

    Args:
        environ: Holds ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``; by default this process's environment.
    """

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        environ = dict(os.environ) if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        own = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "") if own else ""
        self.watchdog_s = int(usec) / 1e6 / 2 if usec.isdigit() else None
        """Interval between pings, half of the watchdog's; ``None`` without a watchdog."""

    def ready(self, status: str) -> None:
        """Report that start-up, or a reload, is over."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins; ``Type=notify-reload`` requires the time stamp."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)}")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(f"STATUS={text}")

    def ping(self) -> None:
        """Tell the watchdog that the loop still runs."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if self._address:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)
