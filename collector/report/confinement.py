"""Giving up all rights before a hostile core is looked at. Runs in the unwinding process only."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

NOBODY = 65534
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CPU_S = 30
OPEN_FILES = 2048


def confine(data_bytes: int) -> None:
    """
    Become nobody if this is root, without network; take all rights from this process for good, and most resources.

    Args:
        data_bytes: Most private memory. Not of address space: a core of 100 GiB is mapped, which takes none.

    Raises:
        OSError: If it cannot be done; nothing may be parsed then.

    Source: capabilities(7), "Effect of user ID changes on capabilities"; prctl(2), setrlimit(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _be_killed_first()
    if os.geteuid() == 0:
        _check(libc.unshare(CLONE_NEWNET))
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_DUMPABLE, 0), (PR_SET_PDEATHSIG, signal.SIGKILL)):
        _check(libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3))
    for kind, limit in (
        (resource.RLIMIT_DATA, data_bytes),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))


def _be_killed_first() -> None:
    """If memory runs out, the kernel shall end this process and no other."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
