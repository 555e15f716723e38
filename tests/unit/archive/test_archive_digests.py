"""Finding and adding missing digests."""

from __future__ import annotations

from pathlib import Path

from collector.archive.digests import add_digests, undigested
from collector.archive.layout import MANIFEST, new_id
from collector.archive.read import ArchiveReader, encode_manifest
from collector.model.artifact import ArtifactRecord
from collector.model.incident import IncidentState, Manifest, StepRecord, StepStatus
from collector.model.marker import Marker, MarkerKind


def incident(archive: Path, at_s: float, digest: str | None) -> str:
    """Put a sealed incident with one artifact into the archive."""
    name = new_id(at_s)
    artifact = ArtifactRecord(path="memory/meminfo", size_bytes=1, data_bytes=1, digest=digest)
    step = StepRecord(id="memory", collector="proc_files", status=StepStatus.OK, artifacts=(artifact,))
    marker = Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=at_s)
    manifest = Manifest(
        version=1, id=name, pipeline="crash", markers=(marker,), host="box", boot_id="b", kernel="6.18",
        collector_version="0", config_hash="c", started_s=at_s, planned=("memory",), state=IncidentState.COMPLETE,
        ended_s=at_s, steps=(step,),
    )  # fmt: skip
    (archive / name / "memory").mkdir(mode=0o700, parents=True)
    (archive / name / "memory" / "meminfo").write_bytes(b"x")
    (archive / name / MANIFEST).write_bytes(encode_manifest(manifest))
    return name


def test_undigested_names_the_newest_incidents_that_lack_a_digest(tmp_path: Path) -> None:
    """Newest first, and only among as many as asked for; an unreadable incident is skipped."""
    tmp_path.chmod(0o700)
    oldest = incident(tmp_path, 1.0, None)
    older = incident(tmp_path, 2.0, None)
    incident(tmp_path, 3.0, "xxh3_128:00")
    (tmp_path / incident(tmp_path, 4.0, None) / MANIFEST).write_bytes(b"{")
    newest = incident(tmp_path, 5.0, None)
    with ArchiveReader(str(tmp_path)) as archive:
        assert undigested(archive, 64) == [newest, older, oldest]
        assert undigested(archive, 4) == [newest, older]
        add_digests(archive, newest, lambda fd: "xxh3_128:11")
        assert undigested(archive, 4) == [older]
