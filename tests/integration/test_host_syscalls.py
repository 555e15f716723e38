"""Whether somebody still writes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from collector.host.syscalls import being_written


def test_lease_shows_whether_a_file_is_open_for_writing(tmp_path: Path) -> None:
    """Readers do not count, writers do, also through a second descriptor."""
    path = tmp_path / "core"
    writer = os.open(path, os.O_CREAT | os.O_WRONLY)
    reader, other = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    assert being_written(reader) is True
    second = os.dup(writer)
    os.close(writer)
    assert being_written(reader) is True
    os.close(second)
    assert being_written(reader) is False
    os.close(reader)
    os.close(other)


def test_lease_delays_no_writer_and_kills_nobody(tmp_path: Path) -> None:
    """A writer in between breaks the lease, for which the default signal, SIGIO, would kill this process."""
    path = tmp_path / "core"
    path.touch()
    reader = os.open(path, os.O_RDONLY)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            os.close(os.open(path, os.O_WRONLY))

    writer = threading.Thread(target=write)
    writer.start()
    seen = {being_written(reader) for _ in range(20_000)}
    stop.set()
    writer.join()
    os.close(reader)
    assert seen == {True, False}
