"""What retention is told: how much space deleting an incident frees, and how old it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collector.archive import clock, layout
from collector.archive.prune import inventory, prune, usable_bytes
from collector.archive.read import ArchiveReader
from collector.host.clock import Moment
from collector.model.owners import UNKNOWN
from collector.model.retention import RetentionRules
from collector.model.units import Bytes, Reserve


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


@pytest.mark.parametrize(
    ("manifest", "header", "place"),
    [
        ('{"number": 4, "archive_clock_s": 60.0}', "", (4, 40.0)),
        ('{"ended_s": 1.0}', '{"started_s": 1.0}', (0, 100.0)),
        ('{"number": 4, "archive_clock_s": 9999.0}', "", (4, -9899.0)),
        ('{"number": -4, "archive_clock_s": 60.0}', "", (0, None)),
        ("", "", (0, None)),
        ("{", '{"number": 4}', (4, None)),
    ],
    ids=["stamped", "of an earlier release", "of another archive", "nonsense", "empty", "damaged"],
)
def test_prune_knows_ages_by_the_archives_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: str, header: str, place: tuple[int, float | None]
) -> None:
    """Incidents of earlier releases age from the first start of this one; unreadable ones never do."""
    tmp_path.chmod(0o700)
    incident = tmp_path / layout.new_id(1_700_000_000.0)
    incident.mkdir()
    (incident / layout.MANIFEST).write_text(manifest)
    (incident / layout.HEADER).write_text(header)
    with ArchiveReader(str(tmp_path)) as archive:
        (tmp_path / layout.CLOCK).write_bytes(b'{"boot_id": "a", "boot_s": 1.0, "clock_s": 0.0, "last_number": 0}')
        monkeypatch.setattr(clock, "moment", lambda: Moment("a", 101.0))
        (found,) = inventory(archive)
        assert (found.number, found.age_s) == place
        assert archive.ids() == [incident.name]
        assert clock.number_of(incident.name, archive.fd) == found.number


@pytest.mark.parametrize(
    ("marker", "owner"),
    [
        ('"kind": "core_file", "uid": 0', "root"),
        ('"kind": "core_file", "uid": 65534', "uid 65534"),
        ('"kind": "manual"', "root"),
        ('"kind": "pressure"', "root/<t> (uid ?)"),
        ('"kind": "exit", "process": {"pid": 4000077}', "unknown/<t> (uid ?)"),
        ('"kind": "core_file", "uid": 65534, "attributed": false', "uid 65534"),
        ('"kind": "core_file", "uid": "x"', "unknown"),
    ],
)
def test_prune_knows_whose_the_incidents_of_earlier_releases_are(tmp_path: Path, marker: str, owner: str) -> None:
    """Their manifests name no owner: if all were one's, any user could have root's deleted."""
    tmp_path.chmod(0o700)
    incident = tmp_path / layout.new_id(1_700_000_000.0)
    incident.mkdir()
    (incident / layout.MANIFEST).write_text(f'{{"markers": [{{"trigger": "t", "at_s": 1, {marker}}}]}}')
    with ArchiveReader(str(tmp_path)) as archive:
        assert [kept.owner for kept in inventory(archive)] == [owner]


def test_prune_gives_the_counter_the_numbers_that_it_sees(tmp_path: Path) -> None:
    """Those of incidents that were copied from elsewhere, or whose counter a power cut has set back."""
    tmp_path.chmod(0o700)
    incident = tmp_path / layout.new_id(1_700_000_000.0)
    incident.mkdir()
    with ArchiveReader(str(tmp_path)) as archive:
        clock.advance(archive.fd, new=1)
        (incident / layout.MANIFEST).write_text('{"number": 41}')
        prune(archive, RetentionRules(count=None, age_s=None, size_bytes=None))
        assert clock.advance(archive.fd, new=1).last_number == 42


def test_prune_of_an_empty_archive_takes_no_number(tmp_path: Path) -> None:
    """The first incident is number one."""
    tmp_path.chmod(0o700)
    with ArchiveReader(str(tmp_path)) as archive:
        prune(archive, RetentionRules())
        assert clock.advance(archive.fd, new=1).last_number == 1


@pytest.mark.parametrize(("manifest", "owner"), [('{"owner": "uid 7"}', "uid 7"), ("{}", UNKNOWN), ("", UNKNOWN)])
def test_prune_knows_whose_an_incident_is(tmp_path: Path, manifest: str, owner: str) -> None:
    """Those of earlier releases, which do not say it, are together one owner's."""
    tmp_path.chmod(0o700)
    incident = tmp_path / layout.new_id(1_700_000_000.0)
    incident.mkdir()
    (incident / layout.MANIFEST).write_text(manifest)
    with ArchiveReader(str(tmp_path)) as archive:
        (found,) = inventory(archive)
    assert found.owner == owner


@pytest.mark.parametrize(("manifest", "size_bytes"), [('{"sealed_bytes": 7}', 7), ("{}", 0)])
def test_prune_believes_what_was_sealed_where_it_cannot_measure(tmp_path: Path, manifest: str, size_bytes: int) -> None:
    """A directory that cannot be read, as of a damaged disk, makes no incident larger than it says."""
    incident = tmp_path / layout.new_id(1_700_000_000.0)
    (incident / "inner").mkdir(parents=True)
    (incident / layout.MANIFEST).write_text(manifest)
    (incident / "inner").chmod(0)
    tmp_path.chmod(0o700)
    user = os.geteuid()
    with ArchiveReader(str(tmp_path)) as archive:
        tmp_path.chmod(0o755)
        os.seteuid(user or 65534)  # root could read it
        try:
            (found,) = inventory(archive)
        finally:
            os.seteuid(user)
            (incident / "inner").chmod(0o700)
    assert found.size_bytes == size_bytes


def test_prune_goes_by_the_disk_without_the_reserve(tmp_path: Path) -> None:
    """The size of the whole disk, not what is free on it."""
    tmp_path.chmod(0o700)
    disk = os.statvfs(tmp_path)
    total_bytes = disk.f_blocks * disk.f_frsize
    with ArchiveReader(str(tmp_path)) as archive:
        assert usable_bytes(archive, Reserve(size_bytes=4096)) == total_bytes - 4096
        assert usable_bytes(archive, Reserve(percent=25.0)) == total_bytes - int(total_bytes * 25.0 / 100)


def test_prune_measures_what_manifests_say_only_where_it_matters(tmp_path: Path) -> None:
    """A false size deletes nothing; if all together are within the bound whatever they say, no file is looked at."""
    tmp_path.chmod(0o700)
    for number in (1, 2):
        incident = tmp_path / layout.new_id(1_700_000_000.0 + number)
        incident.mkdir()
        (incident / layout.MANIFEST).write_text(f'{{"number": {number}, "owner": "root", "sealed_bytes": 1048576}}')
    with ArchiveReader(str(tmp_path)) as archive:
        assert [kept.size_bytes for kept in inventory(archive, enough_bytes=2 << 20)] == [1 << 20] * 2
        assert all(kept.size_bytes < 1 << 16 for kept in inventory(archive, enough_bytes=(2 << 20) - 1))
        assert prune(archive, RetentionRules(size_bytes=Bytes(1 << 20), count=None, age_s=None)).gone == []
        assert len(archive.names()) == 2
