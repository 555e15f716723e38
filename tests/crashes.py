"""Cores that the kernel writes, and incidents that hold them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from collecting import core_ref, manual
from machine import core_pattern, need
from runner_lab import Lab

from collector.archive.read import ArchiveReader
from collector.collectors.core.core import Core
from collector.collectors.core.summary import CoreSummary
from collector.config.spec import RuntimeSettings
from collector.report.archived_core import ArchivedCore, archived_core
from collector.runner.pool import Pool


def kernel_core(command: Sequence[str | Path], path: Path) -> Path:
    """Run *command*, which crashes, and keep its core as *path*."""
    need("root")
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        with core_pattern(f"{directory}/core"):
            shell = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *map(str, command)]
            subprocess.run(shell, capture_output=True, check=False)
        (written,) = Path(directory).iterdir()
        return written.rename(path)


@contextmanager
def open_core(path: Path) -> Iterator[ArchivedCore]:
    """Open a core as if it were an incident's, of which nothing else was archived."""
    with path.open("rb") as file:
        summary = CoreSummary(path=str(path), size_bytes=path.stat().st_size)
        yield ArchivedCore(summary=summary, path=str(path), fd=file.fileno(), rows=lambda: ())


def archive_core(core: Path, archive: Path) -> str:
    """Archive *core* in an incident; return its id."""
    pool = Pool(1, RuntimeSettings())
    pool.fill()
    try:
        lab = Lab(pool, archive)
        lab.marker = manual(core=core_ref(str(core)))
        return lab.collect(Core()).id
    finally:
        pool.close()


@contextmanager
def archived(core: Path, archive: Path) -> Iterator[ArchivedCore]:
    """Archive *core*, and open what the incident holds of it."""
    incident = archive_core(core, archive)
    with ArchiveReader(str(archive)) as opened, archived_core(opened, incident, opened.manifest(incident)) as found:
        yield found
