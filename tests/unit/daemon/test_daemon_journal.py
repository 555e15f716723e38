"""The log must never hold up the loop that writes it, and says what matters by its priority."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.crash_fields import crash_fields
from collector.daemon.journal import output_for
from collector.daemon.log_output import DroppingLogger, Stream
from collector.daemon.native_journal import entry_of
from collector.daemon.sentences import sentence
from collector.model.marker import Marker, MarkerKind, ProcessRef

CRASH = Marker(
    kind=MarkerKind.EXIT, trigger="deaths", at_s=1.5, process=ProcessRef(pid=4000077, start_time_ticks=1),
    comm="engine", exe="/opt/engine", uid=1000, signal=11, unit="engine.service",
    attributes={"system_unit": "engine.service"},
)  # fmt: skip
ARCHIVED = {"event": "incident.archived", "level": "info", "at": "now", "incident": "20261128T220000Z-18e1c2",
            "state": "complete", "size_bytes": 23 << 20, "reason": ""}  # fmt: skip


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]) -> Iterator[socket.socket]:
    """Its socket, of which the pipe is the stream."""
    info = os.fstat(pipe[1])
    monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "socket"))
        yield sock


def fields_of(entry: bytes) -> dict[str, str]:
    """Read an entry as journald does. Source: systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    found = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(entry[:8], "little")
            value, entry = entry[8 : 8 + size], entry[9 + size :]
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


def test_log_drops_and_counts_lines_when_nobody_reads(pipe: tuple[int, int]) -> None:
    """A pipe that is full takes no more; once it is read again, the next line says how many are missing."""
    reader, writer = pipe
    lines = DroppingLogger(*output_for(writer))
    for number in range(10_000):
        lines.info(json.dumps({"event": "e", "number": number}))
    os.set_blocking(reader, False)
    taken = os.read(reader, 1 << 20).count(b"\n")
    lines.info('{"event": "last"}')
    dropped, last = map(json.loads, os.read(reader, 1 << 20).splitlines())
    assert (dropped["event"], dropped["level"]) == ("log.dropped", "warning")
    assert dropped["count"] + taken == 10_000
    assert last == {"event": "last"}


def test_log_drops_and_counts_entries_when_journald_hangs(journald: socket.socket, pipe: tuple[int, int]) -> None:
    """Its socket fills up; nothing waits, nothing goes to the stream, and the count is the first to arrive later."""
    send, render = output_for(pipe[1], journald.getsockname())
    log = DroppingLogger(send, render)
    for _ in range(10_000):
        log.info(render(None, "info", dict(ARCHIVED)))
    taken = len(drain(journald))
    log.info(render(None, "info", dict(ARCHIVED)))
    dropped, last = map(fields_of, drain(journald))
    assert (dropped["COLLECTOR_EVENT"], dropped["PRIORITY"]) == ("log.dropped", "4")
    assert int(dropped["COLLECTOR_COUNT"]) + taken == 10_000
    assert last["COLLECTOR_EVENT"] == "incident.archived"


def drain(sock: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(sock.recv(65536))
    except BlockingIOError:
        return found


def test_entry_says_who_crashed_in_fields_and_in_a_sentence() -> None:
    """A person reads the sentence, `journalctl` finds the fields; the unit's own journal shows the incident, too."""
    fields = fields_of(entry_of("info", ARCHIVED | crash_fields(CRASH)))
    assert fields["MESSAGE"] == "engine[4000077] died by SIGSEGV; archived as 18e1c2, complete, 23.0 MiB"
    assert (fields["PRIORITY"], fields["INCIDENT"], fields["COREDUMP_TIMESTAMP"]) == (
        "5", ARCHIVED["incident"], "1500000",
    )  # fmt: skip
    assert (fields["COREDUMP_PID"], fields["COREDUMP_SIGNAL"], fields["COREDUMP_SIGNAL_NAME"]) == (
        "4000077", "11", "SIGSEGV",
    )  # fmt: skip
    assert {fields[name] for name in ("UNIT", "COREDUMP_UNIT", "OBJECT_SYSTEMD_UNIT")} == {"engine.service"}
    assert "COLLECTOR_AT" not in fields


@pytest.mark.parametrize(("event", "fields", "said"), [
    ("daemon.stopping", {"running": ["20261128T225017.924723Z-9f6cae"]},
     "stopping; under way: 20261128T225017.924723Z-9f6cae"),
    ("daemon.stopping", {"running": []}, "stopping"),
    ("limit.reached", {"limit": "storm.total", "owner": "uid 1000", "count": 1},
     "the limit storm.total was reached once (owner: uid 1000)"),
    ("cores.removed", {"trigger": "cores", "count": 1, "size_bytes": 1 << 20},
     "trigger cores: archived cores removed: 1, 1.0 MiB"),
    ("handover.failed", {"incident": "x-18e1c2", "reason": "it exited with status 1", "tries": 1, "retry_s": 300.0},
     "18e1c2: not taken over by the program of on_archived: it exited with status 1; tried again in 5m"),
    ("handover.failed", {"incident": "x-18e1c2", "reason": "it exited with status 1", "tries": 4, "retry_s": None},
     "18e1c2: not taken over by the program of on_archived: it exited with status 1; given up after 4 tries"),
    ("incident.opened", {"incident": "x-18e1c2", "path": "/a/x", "over_budget": "2 incidents of x in 600 s"},
     "18e1c2: opened at /a/x; over budget: 2 incidents of x in 600 s"),
    ("incident.sealed", {"incident": "x-18e1c2", "digests": 0}, "18e1c2: no digest is missing"),
    ("marker.ruled", {"occasion": "core file /c/core.1", "reason": "core file /c/core.1", "fate": "queued"},
     "core file /c/core.1; queued"),
])  # fmt: skip
def test_entry_is_a_sentence_as_one_would_write_it(event: str, fields: dict[str, Any], said: str) -> None:
    """Numbers with their nouns, lists as lists, nothing twice, and what comes next."""
    assert sentence(event, fields) == said


def test_entry_of_a_claim_names_no_unit_and_no_process() -> None:
    """An ordinary user's word about another's process must not appear as root's in that unit's journal."""
    claim = Marker(
        kind=MarkerKind.NOTIFICATION, trigger="told", at_s=1.0, process=ProcessRef(pid=4000077), doubtful=True,
        comm="sshd", unit="ssh.service", uid=1000,
    )  # fmt: skip
    names = fields_of(entry_of("info", ARCHIVED | crash_fields(claim))).keys()
    assert {name for name in names if "UNIT" in name or name.startswith("COREDUMP_")} == set()


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nPRIORITY=0", "a\u202eb", "a\udcff"])
def test_entry_takes_no_names_that_a_terminal_or_journald_obeys(name: str) -> None:
    """A process may have any name: it forges no field, and moves no cursor."""
    fields = fields_of(entry_of("info", ARCHIVED | {"comm": name, "signal": 11, "steps": [name]}))
    assert all(value.isprintable() for value in fields.values())
    assert (fields["PRIORITY"], fields["COREDUMP_COMM"][:2]) == ("5", "a\\")


def test_entry_has_a_traceback_in_lines() -> None:
    """A value of several lines goes with its length."""
    text = "Traceback:\n  line 1\nTypeError"
    fields = fields_of(entry_of("critical", {"event": "daemon.failed", "error": "a bug", "exception": text}))
    assert (fields["COLLECTOR_EXCEPTION"], fields["PRIORITY"]) == (text, "2")


def test_log_puts_priorities_in_front_where_only_the_stream_is_there(
    journald: socket.socket, pipe: tuple[int, int]
) -> None:
    """As sd-daemon(3) has it: without the native socket, `journalctl -p` works all the same."""
    send, render = output_for(pipe[1], journald.getsockname() + ".gone")
    assert send(render(None, "error", {"event": "ledger.failed", "error": "e"}))
    assert os.read(pipe[0], 4096) == b'<3>{"event": "ledger.failed", "error": "e"}\n'


def test_log_for_a_terminal_has_no_control_characters() -> None:
    """Names go there as text that nobody obeys."""
    controller, terminal = pty.openpty()
    try:
        _, render = output_for(terminal)
        line = render(None, "info", {"event": "marker.ruled", "comm": "a\x1b]0;b\x07"})
    finally:
        os.close(controller)
        os.close(terminal)
    assert "\x1b]" not in line
    assert "\x07" not in line


def test_log_survives_the_end_of_its_reader() -> None:
    """A closed pipe is no reason to die."""
    reader, writer = os.pipe()
    os.close(reader)
    assert not Stream(writer).write("nobody is there")
    os.close(writer)


def test_daemon_imports_nothing_that_it_never_uses() -> None:
    """They are megabytes in the daemon and in each worker; who needs one afterwards gets the real one."""
    heavy = {"asyncio", "ssl", "rich"}
    program = (
        "import sys, collector.cli.daemon, collector.daemon.supervisor\n"
        f"print(*({heavy!r} & sys.modules.keys()))\n"
        "import asyncio\n"
        "print(asyncio.run.__module__)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "\nasyncio.runners\n"
