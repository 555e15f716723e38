"""The log must never hold up the loop that writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from collector.daemon.journal import LineWriter


def test_line_writer_drops_and_counts_lines_when_nobody_reads() -> None:
    """A pipe that is full takes no more; once it is read again, the next line says how many are missing."""
    reader, writer = os.pipe()
    lines = LineWriter(writer)
    for number in range(10_000):
        lines.info(json.dumps({"event": "e", "number": number}))
    os.set_blocking(reader, False)
    taken = os.read(reader, 1 << 20).count(b"\n")
    lines.info('{"event": "last"}')
    dropped, last = map(json.loads, os.read(reader, 1 << 20).splitlines())
    assert dropped["event"] == "log.dropped"
    assert dropped["count"] + taken == 10_000
    assert last == {"event": "last"}


def test_line_writer_survives_the_end_of_its_reader() -> None:
    """A closed pipe is no reason to die."""
    reader, writer = os.pipe()
    os.close(reader)
    lines = LineWriter(writer)
    lines.error("nobody is there")


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
