"""Journal files with chosen entries, written by systemd's own code, below a root of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from collecting import Collected, collect, context
from machine import need

from collector.collectors.journal.journal import Journal
from collector.host.procfs import CLOCK_TICKS_PER_S
from collector.model.marker import SYSTEM_UNIT, Marker, MarkerKind, ProcessRef
from collector.model.redaction import Redaction

REMOTE = "/lib/systemd/systemd-journal-remote"
MACHINE = "0123456789abcdef0123456789abcdef"
BOOT = Path("/proc/sys/kernel/random/boot_id")
UNIT = "engine.service"
PID = 4000077


class JournalLab:
    """
    A root with ``var/log/journal``; *now_us* is CLOCK_MONOTONIC at its making, to which ages of entries refer.

    Args:
        root: An empty directory.
        settings: Environment of the writer: ``SYSTEMD_JOURNAL_COMPRESS``, ``_COMPACT``, ``_KEYED_HASH``.
    """

    def __init__(self, root: Path, **settings: str) -> None:
        need(REMOTE)
        self.root = root
        self.directory = root / "var" / "log" / "journal" / MACHINE
        self._settings = settings
        self.boot = BOOT.read_text(encoding="utf-8").replace("-", "").strip()
        self.now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.wall_us = time.time_ns() // 1000
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "machine-id").write_text(f"{MACHINE}\n", encoding="utf-8")
        boot = root / str(BOOT).lstrip("/")
        boot.parent.mkdir(parents=True)
        boot.write_text(BOOT.read_text(encoding="utf-8"), encoding="utf-8")
        self.directory.mkdir(parents=True)

    def entry(self, age_s: float, message: str | bytes, *, boot: str = "", **fields: object) -> bytes:
        """Return an entry of *age_s* seconds before now, in the export format."""
        age_us = int(age_s * 1e6)
        known = {
            "__REALTIME_TIMESTAMP": self.wall_us - age_us,
            "__MONOTONIC_TIMESTAMP": self.now_us - age_us,
            "_BOOT_ID": boot or self.boot,
            "_MACHINE_ID": MACHINE,
            "PRIORITY": 6,
            "MESSAGE": message,
        }
        return b"".join(map(_field, (known | fields).items())) + b"\n"

    def write(self, entries: Iterable[bytes], name: str = "system.journal") -> Path:
        """Write a file."""
        path = self.directory / name
        command = [REMOTE, "-o", str(path), "-"]
        subprocess.run(
            command, input=b"".join(entries), check=True, capture_output=True, env={**os.environ, **self._settings}
        )
        return path

    def journalctl(self, *arguments: str) -> bytes:
        """Return what systemd's own reader prints."""
        command = ["journalctl", "-q", "--no-pager", "-D", str(self.directory), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout


def of_unit(unit: str, pid: int = PID, uid: int = 1000) -> dict[str, object]:
    """Return the fields that journald adds to a line of a service's process."""
    return {
        "_TRANSPORT": "stdout",
        "_PID": pid,
        "_UID": uid,
        "_COMM": "engine",
        "_EXE": "/usr/bin/engine",
        "_SYSTEMD_UNIT": unit,
        "SYSLOG_IDENTIFIER": "engine",
    }


def _field(item: tuple[str, object]) -> bytes:
    name, value = item
    if isinstance(value, list):
        return b"".join(_field((name, one)) for one in value)
    data = value if isinstance(value, bytes) else str(value).encode()
    if b"\n" in data or b"\0" in data or not data.isascii():
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def crash(lab: JournalLab, *, age_s: float = 0.0, lived_s: float = 3600.0, **facts: Any) -> Marker:
    """Return a marker of the unit's process, noticed *age_s* ago, started *lived_s* before."""
    suspended_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    now = (lab.now_us / 1e6 + suspended_s) * CLOCK_TICKS_PER_S
    noticed = now - age_s * CLOCK_TICKS_PER_S
    process = ProcessRef(pid=PID, start_time_ticks=max(1, int(noticed - lived_s * CLOCK_TICKS_PER_S)))
    known: dict[str, Any] = {
        "kind": MarkerKind.EXIT,
        "trigger": "test",
        "at_s": time.time(),
        "process": process,
        "uid": 1000,
        "unit": UNIT,
        "attributes": {SYSTEM_UNIT: UNIT},
        "noticed_ticks": int(noticed) + 1,
    }
    return Marker(**(known | facts))


def run(lab: JournalLab, marker: Marker, redaction: Redaction | None = None, **options: Any) -> Collected:
    """Collect with the options of a step."""
    return collect(Journal(**options), context(marker, root=str(lab.root), redaction=redaction))


def messages(got: Collected) -> list[str]:
    """Return the messages in the order of the file."""
    return [row["fields"]["MESSAGE"] for row in got.rows("journal.jsonl")]
