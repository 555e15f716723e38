"""Many idle processes, cheaply."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from machine import compiled


@contextlib.contextmanager
def crowd(directory: Path, count: int) -> Iterator[set[int]]:
    """Run *count* idle processes named ``crowd``; yield their PIDs. The program is compiled into *directory*."""
    program = directory / "crowd"
    if not program.exists():
        compiled(Path(__file__).with_name("crowd.c"), directory)
    with subprocess.Popen([str(program), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ok\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
        yield {int(pid) for pid in children.split()}
