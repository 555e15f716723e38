"""A threshold on memory stall that the kernel watches. Source: Documentation/accounting/psi.rst, "Monitoring"."""

from __future__ import annotations

import os
import select

from collector.host.files import Host

PATH = "/proc/pressure/memory"


class PsiTrigger:
    """
    One trigger on ``/proc/pressure/memory``.

    The kernel announces it by POLLPRI, which a loop for reading does not look at; an epoll instance
    around it turns readable instead.

    Args:
        kind: ``some`` or ``full``.
        stall_s: Stalled time within the window.
        window_s: 0.5 to 10 seconds; without CAP_SYS_RESOURCE a multiple of 2 (Linux 6.5).

    Raises:
        OSError: ``ENOENT`` or ``EOPNOTSUPP`` without PSI, ``EINVAL`` for values that the kernel refuses.
    """

    def __init__(self, host: Host, *, kind: str, stall_s: float, window_s: float) -> None:
        self._fd = host.open(PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll()
        try:
            os.write(self._fd, f"{kind} {round(stall_s * 1e6)} {round(window_s * 1e6)}\0".encode())
            self._epoll.register(self._fd, select.EPOLLPRI)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that turns readable when the threshold is passed."""
        return self._epoll.fileno()

    def clear(self) -> None:
        """
        Make the descriptor unreadable until the threshold is passed again; at most once per window.

        That it was readable is all there is to learn: whoever looks at it (the loop, through the epoll
        instance) takes the event, and a second look finds none. Source: psi_trigger_poll() in
        kernel/sched/psi.c.
        """
        self._epoll.poll(0)

    def close(self) -> None:
        """End the trigger."""
        self._epoll.close()
        os.close(self._fd)
