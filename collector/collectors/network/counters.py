"""The counters of a network namespace: small files, which list no sockets or routes and take no lock for long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from collector.host.files import Host, body
from collector.host.procfs import Process
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, SourceInfo
from collector.model.errors import StepError
from collector.model.text import escape

FILES = (
    "netstat", "snmp", "snmp6", "sockstat", "sockstat6", "dev", "softnet_stat", "stat/nf_conntrack", "stat/arp_cache",
    "stat/ndisc_cache", "stat/rt_cache", "xfrm_stat", "sctp/snmp", "tls_stat",
)  # fmt: skip
# The reader's own: another namespace's cannot be read without entering it.
SETTINGS = (
    "netfilter/nf_conntrack_count", "netfilter/nf_conntrack_max", "core/somaxconn", "core/netdev_max_backlog",
    "core/rmem_max", "core/wmem_max", "ipv4/tcp_max_syn_backlog", "ipv4/tcp_mem", "ipv4/udp_mem", "ipv4/tcp_rmem",
    "ipv4/tcp_wmem", "ipv4/ip_local_port_range", "ipv4/tcp_tw_reuse", "ipv4/tcp_max_tw_buckets", "ipv4/tcp_syncookies",
    "ipv4/neigh/default/gc_thresh3", "unix/max_dgram_qlen",
)  # fmt: skip
MAX_BYTES = 256 << 10
"""``dev`` of a machine with 1,500 interfaces; of one with 2, all files take 12 KB."""


def counters(host: Host, found: list[Process], unread: ReadErrors) -> Iterator[Artifact]:
    """
    Yield the files of each namespace once, below the PID of a process in it; the host's below ``host``.

    The host's come only if a process of *found* is in it, or none is in another one.
    """
    others = _other_namespaces(host, found, unread)
    for process in others.values():
        yield from _copies(str(process.pid), f"/proc/{process.pid}/net", process.open, unread, process.check)
    if len(others) < len(found) or not found:
        yield from _copies("host", "/proc/net", lambda name: host.open(f"/proc/{name}"), unread)
        yield Artifact(path=PurePosixPath("host", "settings.tsv"), body=b"".join(_settings(host)))


def _other_namespaces(host: Host, found: list[Process], unread: ReadErrors) -> dict[str, Process]:
    """Return the namespaces of *found* other than this process's own, each with a process in it."""
    others: dict[str, Process] = {}
    try:
        own = os.readlink(host.path("/proc/self/ns/net"))
    except OSError:
        return others
    for process in found:
        try:
            namespace = process.link("ns/net")
        except OSError as exc:
            unread.add(f"/proc/{process.pid}/ns/net", exc)
            continue
        if namespace != own:
            others.setdefault(namespace, process)
    return others


def _copies(
    directory: str,
    source: str,
    opened: Callable[[str], int],
    unread: ReadErrors,
    check: Callable[[], None] | None = None,
) -> Iterator[Artifact]:
    for name in FILES:
        try:
            content = body(opened(f"net/{name}"), limit=MAX_BYTES, check=check)
        except FileNotFoundError:
            continue  # this kernel, or this namespace, does not have it
        except (OSError, StepError) as exc:
            unread.add(f"{source}/{name}", exc)
            continue
        yield Artifact(
            path=PurePosixPath(directory, *name.split("/")), body=content, source=SourceInfo(path=f"{source}/{name}")
        )


def _settings(host: Host) -> Iterator[bytes]:
    for name in SETTINGS:
        try:
            value = host.read(f"/proc/sys/net/{name}", limit=256)
        except OSError:
            continue
        yield f"{name}\t{escape(b' '.join(value.split()))}\n".encode()
