"""The log must never hold up the loop that writes it."""

from __future__ import annotations

import json
import os

from collector.daemon.journal import Lines


def test_lines_are_dropped_and_counted_when_nobody_reads() -> None:
    """A pipe that is full takes no more; once it is read again, the next line says how many are missing."""
    reader, writer = os.pipe()
    lines = Lines(writer)
    for number in range(10_000):
        lines.info(json.dumps({"event": "e", "number": number}))
    os.set_blocking(reader, False)
    taken = os.read(reader, 1 << 20).count(b"\n")
    lines.info('{"event": "last"}')
    dropped, last = map(json.loads, os.read(reader, 1 << 20).splitlines())
    assert dropped["event"] == "log.dropped"
    assert dropped["count"] + taken == 10_000
    assert last == {"event": "last"}


def test_lines_survive_the_end_of_their_reader() -> None:
    """A closed pipe is no reason to die."""
    reader, writer = os.pipe()
    os.close(reader)
    lines = Lines(writer)
    lines.error("nobody is there")
