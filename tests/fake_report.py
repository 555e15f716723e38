"""Apport reports, written as its ``problem_report.py`` and ``data/apport`` write them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator

HEADER = b"\x1f\x8b\x08\x08\0\0\0\0\x02\xffCoreDump\0"
STATUS = (
    "Name:\t{comm}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t7\nTracerPid:\t0\n"
    "Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t1001\t1001\t1001\t1001\nNSpid:\t{pid}\nThreads:\t3"
)
MAPS = (
    "00400000-00401000 r-xp 00000000 08:01 12                         /opt/engine/bin/engine\n"
    "7ffc0000000-7ffc0001000 rw-p 00000000 00:00 0                    [stack]"
)


def status(pid: int, *, uid: int = 1000, comm: str = "engine") -> str:
    """Return ``/proc/PID/status``, as far as it matters."""
    return STATUS.format(pid=pid, uid=uid, comm=comm)


def values_of(pid: int, *, maps: str = "", uid: int = 1000, comm: str = "engine", **more: str) -> dict[str, str]:
    """Return the text of a report about a process that died of SIGSEGV."""
    values = {
        "ProblemType": "Crash", "Architecture": "amd64", "Date": "Sat Nov 28 08:56:14 2026",
        "DistroRelease": "Ubuntu 24.04", "ExecutablePath": "/opt/engine/bin/engine",
        "ProcCmdline": "/opt/engine/bin/engine --name a\\ b --password hunter2-correct-horse", "ProcCwd": "/",
        "ProcEnviron": "LANG=C\nPATH=(custom, no user)", "ProcMaps": maps or MAPS,
        "ProcStatus": status(pid, uid=uid, comm=comm), "Signal": "11", "SignalName": "SIGSEGV",
        "Uname": "Linux 6.8.0 x86_64", "UserGroups": "N/A", "_HooksRun": "no",
    }  # fmt: skip
    return values | more


def report(values: dict[str, str], chunks: Iterable[bytes] | None = None) -> bytes:
    """Return a report: text sorted by key but for the first, then the core in *chunks*, a line each."""
    keys = sorted(values, key=lambda key: (key != "ProblemType", key))
    text = b"".join(_text(key, values[key].encode()) for key in keys)
    if chunks is None:
        return text
    return text + b"CoreDump: base64" + b"".join(b"\n " + base64.b64encode(chunk) for chunk in chunks) + b"\n"


def _text(key: str, value: bytes) -> bytes:
    folded = b":\n " + value.replace(b"\n", b"\n ") if b"\n" in value else b": " + value
    return key.encode() + folded + b"\n"


def packed(core: bytes) -> Iterator[bytes]:
    """Yield gzip's header, the deflated core MiB by MiB, and its end: each becomes a line."""
    yield HEADER
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, 0)
    for at in range(0, len(core), 1 << 20):
        if block := deflate.compress(core[at : at + (1 << 20)]):
            yield block
    yield deflate.flush() + struct.pack("<LL", zlib.crc32(core), len(core) & 0xFFFFFFFF)
