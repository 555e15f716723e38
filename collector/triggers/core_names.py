"""What a core file's name, the files beside it and an Apport report say about the crash, without reading the core."""

from __future__ import annotations

import os
import re

from collector.host.apport import MAX_NOTICED_BYTES, read_report
from collector.host.corepattern import CoreName, CorePattern
from collector.host.files import OpenFd, open_regular, pieces
from collector.model.errors import StepError
from collector.model.text import parse_number
from collector.triggers.dir_reader import refusal

# core.COMM.UID.BOOT.PID.MICROSECONDS.zst; systemd 229 to 246 appended 000000 to seconds twice.
# Source: make_filename() in systemd's src/coredump/coredump.c
_SYSTEMD = re.compile(
    r"core\.(?P<comm>.{0,64})\.(?P<uid>\d{1,10})\.[0-9a-f]{32}\.(?P<pid>\d{1,10})"
    r"\.(?P<time>\d{1,17}(?:0{6}|0{12})?)(?:\.(?:zst|xz|lz4|gz|bz2))?",
    re.ASCII | re.DOTALL,
)
# _usr_bin_NAME.UID.crash, where every / became _. Source: apport/fileutils.py, make_report_path()
_APPORT = re.compile(r"_(?:.*_)?(?P<comm>[^_]*)\.(?P<uid>\d{1,10})\.crash", re.ASCII | re.DOTALL)
_XATTRS = ("pid", "uid", "signal", "timestamp", "comm", "exe")
_VALUE_BYTES = 4096


def identify(path: str, fd: int, dir_fd: int, pattern: CorePattern) -> tuple[str, CoreName]:
    """
    Return who wrote the core (``systemd``, ``apport``, ``abrt``, ``kernel``, ``unknown``), and what it says.

    Args:
        path: The core's absolute path.
        fd: The open core, for its extended attributes; -1 if it could not be opened.
        dir_fd: Its directory, for the small files that abrt writes beside it.
        pattern: The ``core_pattern`` in force.
    """
    name = os.path.basename(path)
    if found := _SYSTEMD.fullmatch(name):
        return "systemd", _systemd(found, fd)
    if (core := _apport(name, fd)) is not None:
        return "apport", core
    if name == "coredump":
        return "abrt", _abrt(fd, dir_fd)
    if (core := pattern.match(path)) is not None:
        return "kernel", core
    return "unknown", CoreName()


def _systemd(found: re.Match[str], fd: int) -> CoreName:
    """Read the extended attributes, which are exact; where there are none, the name."""
    values: dict[str, str] = {}
    for key in _XATTRS if fd >= 0 else ():
        try:
            values[key] = os.fsdecode(os.getxattr(fd, f"user.coredump.{key}"))
        except OSError:
            continue
    return CoreName(
        pid=parse_number(values.get("pid")) or int(found["pid"]),
        uid=parse_number(values.get("uid", found["uid"])),
        signal=parse_number(values.get("signal")),
        at_s=_seconds(parse_number(values.get("timestamp")) or int(found["time"])),
        comm=values.get("comm") or found["comm"] or None,
        exe=values.get("exe"),
    )


def _seconds(time: int) -> int:
    """Return the seconds of a time in seconds or microseconds, with whatever zeros were appended to it."""
    while time >= 100_000_000_000:  # seconds until the year 5138
        time //= 1_000_000
    return time


def _apport(name: str, fd: int) -> CoreName | None:
    """Read the beginning of a report; what it does not say, its name does, unless somebody has renamed it."""
    found = _APPORT.fullmatch(name)
    report = read_report(fd, limit=MAX_NOTICED_BYTES) if fd >= 0 and name.endswith(".crash") else None
    named = CoreName(uid=int(found["uid"]), comm=found["comm"] or None) if found else CoreName()
    if report is None:
        return named if found else None
    return CoreName(
        pid=report.pid or None,
        uid=named.uid if report.uid is None else report.uid,
        signal=report.number(b"Signal"),
        at_s=report.at_s,
        comm=report.comm or named.comm,
        exe=report.exe,
    )


def _abrt(fd: int, dir_fd: int) -> CoreName:
    """Read abrt's elements. Source: doc/deps/problem_data in abrt; abrt-hook-ccpp.c."""
    speakers = {0, os.fstat(fd).st_uid} if fd >= 0 else {0}
    values = {name: _small(name, dir_fd, speakers) for name in ("pid", "global_pid", "uid", "time", "executable")}
    exe = values["executable"]
    return CoreName(
        pid=parse_number(values["global_pid"]),
        inner_pid=parse_number(values["pid"]),
        uid=parse_number(values["uid"]),
        at_s=parse_number(values["time"]),
        comm=os.path.basename(exe)[:15] if exe else None,
        exe=exe,
    )


def _small(name: str, dir_fd: int, speakers: set[int]) -> str | None:
    """Read a small regular file that is the word of root or of the core's owner: another may have put it there."""
    try:
        with OpenFd(open_regular(name, dir_fd=dir_fd)) as fd:
            info = os.fstat(fd)
            if info.st_uid not in speakers or refusal(fd, "attribute") is not None:
                return None
            return os.fsdecode(b"".join(pieces(fd, limit=_VALUE_BYTES))).strip()
    except (OSError, StepError):
        return None
