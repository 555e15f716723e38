"""What the machine has, whatever the configuration says: privileges, kernel, limits, clock."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator

from collector.cli.check import Check
from collector.host import syscalls
from collector.host.clock_state import is_synchronised
from collector.model.units import size

MEMLOCK_BYTES = 64 << 20
"""What the idle daemon locks: 41 MiB resident, and some room."""

INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h, PROC_PID_INIT_INO
EVERYBODY = ["0", "0", "4294967295"]
INOTIFY = {"max_queued_events": 16_384, "max_user_instances": 128, "max_user_watches": 8192}
"""The kernel's own defaults; fewer cost scans, or a trigger."""

YEAR = 365.2425 * 86_400
BUILT_S = 55 * YEAR
"""2025: an earlier wall clock is that of a machine whose battery is dead."""

NETLINK_CONNECTOR = 11  # include/uapi/linux/netlink.h


def privileges() -> Iterator[Check]:
    if os.geteuid() == 0:
        yield Check("ok", "privileges", "runs as root")
    else:
        said = "without root: other users' processes, the kernel log and most cores cannot be read"
        yield Check("warning", "privileges", said, "run it as root for the full picture")
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() != 0 and 0 <= soft < MEMLOCK_BYTES:
        said = f"RLIMIT_MEMLOCK is {size(soft)}: nothing is locked, the collector itself may be paged out"
        yield Check("warning", "memlock", said, "LimitMEMLOCK=infinity, or root")


def kernel() -> Iterator[Check]:
    with open("/proc/self/exe", "rb") as file:
        if syscalls.direct_alignment(file.fileno()) is None:
            said = "statx(2) reports no direct I/O alignment here: 4096 is assumed"
            yield Check("warning", "kernel", said, "Linux 6.1 reports it for ext4 and xfs")
    with open("/proc/swaps", encoding="ascii") as swaps:
        if len(swaps.readlines()) > 1:
            yield Check("ok", "swap", "there is swap; the gate does not rely on it")


def container() -> Iterator[Check]:
    """Yield what a container, which has namespaces of its own, hides from the collector."""
    if os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE:
        said = "a PID namespace of its own: the PIDs that the kernel reports are the host's, and mean nothing here"
        yield Check("warning", "container", said, "run the collector on the host: it sees the containers from there")
    with open("/proc/self/uid_map", encoding="ascii") as file:
        if file.read().split() != EVERYBODY:
            said = "a user namespace of its own: this root is not the machine's"
            yield Check("warning", "container", said, "run the collector on the host")


def sources() -> Iterator[Check]:
    """Yield which of the kernel's own reports do not come here."""
    if os.geteuid() != 0:
        return  # a user cannot tell; `privileges` says so
    import socket  # noqa: PLC0415 - 4 ms, before the first line is shown

    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR) as sock:
            sock.connect((0, 0))
            sock.send(bytes(16))
    except OSError as exc:
        said = f"the kernel reports no exits here (netlink: {exc.strerror}): process_exits cannot work"
        hint = (
            "it needs the first network namespace, CONFIG_PROC_EVENTS, and a container's filter that lets AF_NETLINK by"
        )
        yield Check("warning", "netlink", said, hint)
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        said = f"the kernel's log cannot be read (/dev/kmsg: {exc.strerror}): kernel_log cannot work"
        yield Check(
            "warning", "kmsg", said, "CAP_SYSLOG, or kernel.dmesg_restrict=0; in a container, pass the device in"
        )


def inotify() -> Iterator[Check]:
    for name, least in INOTIFY.items():
        with open(f"/proc/sys/fs/inotify/{name}", encoding="ascii") as file:
            found = int(file.read())
        if found < least:
            said = f"fs.inotify.{name} is {found}: directories may not be watched, or their queue overflows"
            yield Check("warning", "inotify", said, f"sysctl fs.inotify.{name}={least}")


def clock() -> Iterator[Check]:
    """Yield what is wrong with the wall clock, which makes labels only: nothing depends on it."""
    if time.time() < BUILT_S:
        said = f"the clock says {time.strftime('%Y-%m-%d')}: ids and times of incidents will be wrong"
        yield Check("warning", "clock", said, "set it; order and age of incidents do not depend on it")
    elif not is_synchronised():
        said = "nothing keeps the clock right: times of incidents may not agree with other machines'"
        yield Check("warning", "clock", said, "run systemd-timesyncd or chrony; in a container the host's counts")


MACHINE: tuple[Callable[[], Iterator[Check]], ...] = (privileges, kernel, container, sources, inotify, clock)
