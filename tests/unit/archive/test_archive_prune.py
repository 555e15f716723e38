"""How much space deleting an incident frees."""

from __future__ import annotations

import os
from pathlib import Path

from collector.archive import layout
from collector.archive.prune import inventory
from collector.archive.read import ArchiveReader


def test_prune_counts_a_hard_linked_core_only_when_its_other_name_is_gone(tmp_path: Path) -> None:
    """Deleting one of two names frees nothing."""
    core = tmp_path / "core"
    core.write_bytes(os.urandom(1 << 20))
    archive = tmp_path / "archive"
    incident = archive / layout.new_id(1_700_000_000.0)
    incident.mkdir(parents=True)
    archive.chmod(0o700)
    os.link(core, incident / "core")
    with ArchiveReader(str(archive)) as opened:
        (linked,) = inventory(opened)
        core.unlink()
        (alone,) = inventory(opened)
    assert linked.size_bytes == 0
    assert alone.size_bytes == 1 << 20
