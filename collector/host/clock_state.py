"""Whether the wall clock is kept right. Source: adjtimex(2)."""

from __future__ import annotations

import ctypes

from collector.host.syscalls import call

TIMEX_BYTES = 208
TIME_ERROR = 5


def is_synchronised() -> bool:
    """Return whether something, such as NTP, keeps the wall clock right."""
    return call("adjtimex", ctypes.create_string_buffer(TIMEX_BYTES)) != TIME_ERROR
