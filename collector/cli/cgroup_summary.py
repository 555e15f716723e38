"""Which limits the crash's cgroups had met, for the head of an incident."""

from __future__ import annotations

from collector.archive import directory
from collector.archive.read import ArchiveReader
from collector.cli.text import printable
from collector.collectors.cgroup.summary import CgroupSummary
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest

DOCUMENT_BYTES = 1 << 20
SHOWN_FINDINGS = 5
SHOWN = 200
"""Maximum characters of a finding: a cgroup's path may be 4 KiB long."""


def cgroup_facts(archive: ArchiveReader, incident: str, manifest: Manifest) -> list[str]:
    """Return a line for each limit that was met; the file and the id in the manifest are not trusted."""
    found = (artifact.path for step in manifest.steps if step.collector == "cgroup" for artifact in step.artifacts)
    path = next((one for one in found if one.endswith("/cgroup.json")), None)
    if path is None:
        return []
    try:
        with archive.incident(incident) as fd:
            summary = decode(directory.read(path, fd, limit=DOCUMENT_BYTES), CgroupSummary)
    except (ArchiveError, MalformedError, OSError) as exc:
        return [printable(f"{path} cannot be read: {exc}")]
    return [printable(finding, limit=SHOWN) for finding in summary.findings[:SHOWN_FINDINGS]]
