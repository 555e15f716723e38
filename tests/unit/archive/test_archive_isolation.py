"""One bad incident costs every reader of the archive only itself, and is named where the reader reports anything."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from machine import need

from collector.archive import clock, layout
from collector.archive.digests import add_digests, undigested, verify
from collector.archive.prune import inventory, prune
from collector.archive.read import ArchiveReader, encode_manifest
from collector.archive.summary import IncidentSummary
from collector.cli.listing import list_command
from collector.cli.prune import prune_command
from collector.cli.show import show_command
from collector.cli.verify import verify_command
from collector.copying import hashing
from collector.model.artifact import ArtifactRecord
from collector.model.errors import ArchiveError, CopyError
from collector.model.incident import IncidentState, Manifest, StepRecord, StepStatus
from collector.model.marker import Marker, MarkerKind
from collector.model.retention import RetentionRules
from collector.runner.protocol import Recover
from collector.runner.recover_job import recover

Damage = Callable[[Path], object]
FIRST, BAD, LAST = (f"20261128T00000{number}.000000Z-aaaaaa" for number in range(3))
DEEP = b'{"id":' + b"[" * 5000 + b"]" * 5000 + b"}"


def unlinked(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def device(path: Path) -> None:
    need("root")
    os.mknod(unlinked(path), 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero


def server(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(unlinked(path).parent)  # a socket's path has at most 108 bytes
        try:
            sock.bind(path.name)
        finally:
            os.chdir(here)


def huge(path: Path) -> None:
    with unlinked(path).open("wb") as file:
        file.truncate(15 << 40)


def written(data: bytes) -> Damage:
    return lambda path: unlinked(path).write_bytes(data)


def with_key(**keys: object) -> Damage:
    def damage(path: Path) -> None:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(found | keys), encoding="utf-8")

    return damage


DAMAGES: dict[str, Damage] = {
    "empty": written(b""),
    "not JSON": written(b"{"),
    "not UTF-8": written(b'{"id": "\xff\xfe"}'),
    "not UTF-8 in a key": written(b'{"\xff": 1}'),
    "NUL bytes": written(bytes(4096)),
    "nested deeply": written(DEEP),
    "nested deeply in a key that nobody reads": with_key(unknown=json.loads("[" * 900 + "]" * 900)),
    "a list": written(b"[]"),
    "null": written(b"null"),
    "wrong types": with_key(markers=7, steps="x", number="first", version=[], started_s={}),
    "wrong version": with_key(version=2),
    "negative numbers": with_key(number=-1, archive_clock_s=-1.0, sealed_bytes=-1),
    "huge numbers": with_key(number=1 << 200, sealed_bytes=1 << 200),
    "half a surrogate": written(rb'{"id": "\ud800", "markers": [], "version": 1}'),
    "huge": huge,
    "missing": unlinked,
    "a directory": lambda path: unlinked(path).mkdir(),
    "a FIFO": lambda path: os.mkfifo(unlinked(path)),
    "a symlink": lambda path: unlinked(path).symlink_to("/etc/passwd"),
    "a symlink to itself": lambda path: unlinked(path).symlink_to(path.name),
    "a device": device,
    "a socket": server,
}


def put(archive: Path, name: str, number: int) -> Path:
    """Put a sealed incident with one artifact into the archive."""
    artifact = ArtifactRecord(path="memory/meminfo", size_bytes=1, data_bytes=1)
    step = StepRecord(id="memory", collector="proc_files", status=StepStatus.OK, artifacts=(artifact,))
    marker = Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=1.0)
    manifest = Manifest(
        version=1, id=name, pipeline="crash", markers=(marker,), host="box", boot_id="b", kernel="6.18",
        collector_version="0", config_hash="c", started_s=1.0, planned=("memory",), state=IncidentState.COMPLETE,
        ended_s=1.0, steps=(step,), number=number, owner="root", sealed_bytes=8192,
    )  # fmt: skip
    directory = archive / name
    (directory / "memory").mkdir(mode=0o700, parents=True)
    (directory / "memory" / "meminfo").write_bytes(b"x")
    (directory / layout.MANIFEST).write_bytes(encode_manifest(manifest))
    header = {name: getattr(manifest, name) for name in ("version", "id", "pipeline", "markers", "host", "boot_id")}
    header |= {name: getattr(manifest, name) for name in ("kernel", "collector_version", "config_hash", "started_s")}
    (directory / layout.HEADER).write_bytes(msgspec.json.encode(header | {"planned": ["memory"], "number": number}))
    return directory


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    for number, name in enumerate((FIRST, BAD, LAST), 1):
        put(tmp_path, name, number)
    return tmp_path


def output(command: object, *words: str) -> str:
    done = CliRunner().invoke(command, words)  # type: ignore[arg-type]
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_manifest_costs_only_its_incident(archive: Path, damage: str) -> None:
    """Listing, showing, retention, digests, verifying: the others are as they were."""
    DAMAGES[damage](archive / BAD / layout.MANIFEST)
    where = ("--archive", str(archive))
    with ArchiveReader(str(archive)) as reader:
        assert sorted(reader.ids()) == [FIRST, BAD, LAST]
        found = list(reader.summaries())
        assert {one.id for one in found if isinstance(one, IncidentSummary)} >= {FIRST, LAST}
        assert all(BAD in one for one in found if isinstance(one, str))
        assert reader.resolve("latest")
        sizes = {kept.id: kept.size_bytes for kept in inventory(reader)}
        assert set(sizes) == {FIRST, BAD, LAST}
        assert clock.advance(reader.fd, new=1).last_number >= 1
        assert {FIRST, LAST} <= set(undigested(reader, 64))
        for incident in (FIRST, LAST):
            assert add_digests(reader, incident, hashing.digest) == 1
            (check,) = verify(reader, incident, lambda fd, _: hashing.digest(fd))
            assert check.checked
    assert {FIRST, BAD, LAST} <= set(output(list_command, *where).replace(":", " ").split())
    assert FIRST in output(show_command, FIRST, *where)
    text = output(verify_command, *where)
    assert f"{FIRST}  ok" in text
    assert f"{LAST}  ok" in text
    assert BAD in text
    assert "Traceback" not in output(prune_command, "--dry-run", *where)
    with ArchiveReader(str(archive)) as reader:
        rules = RetentionRules(count=1, age_s=None, size_bytes=None)
        assert len(prune(reader, rules, spare=LAST).gone) >= 1
        assert LAST in reader.names()


def test_prune_says_whose_incidents_it_deletes(archive: Path, tmp_path: Path) -> None:
    """And who holds most: names from a manifest are escaped."""
    with_key(owner="uid \x1b[2J", sealed_bytes=1 << 20)(archive / LAST / layout.MANIFEST)
    with_key(owner="uid 7", sealed_bytes=4096)(archive / FIRST / layout.MANIFEST)
    for incident in (FIRST, LAST):
        (archive / incident / "more").write_bytes(bytes(1 << 20))
    config = tmp_path / "collector.yaml"
    text = f"version: 1\narchive: {{path: {archive}, reserve: 0%, keep: {{count: 2}}}}\n"
    config.write_text(text + "pipelines: {crash: {steps: [{id: a, collector: proc_files}]}}\n", encoding="utf-8")
    where = ("--archive", str(archive), "--config", str(config))
    told = output(prune_command, "--dry-run", *where)
    assert f"would delete {FIRST}    4.0 KiB  uid 7" in told, "what it took when it was sealed"
    assert "; uid \\x1b[2J holds most" in told
    document = json.loads(output(prune_command, "--dry-run", "--json", *where))
    assert document["owners"] == {FIRST: "uid 7"}
    assert document["sizes_bytes"] == {FIRST: 4096}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [layout.HEADER, layout.STEPS, layout.ARTIFACTS, layout.MANIFEST])
def test_bad_record_costs_recovery_only_its_incident(archive: Path, name: str, damage: str) -> None:
    """The incidents beside one are sealed; it is, too, or is named and stays."""
    for incident in (FIRST, BAD, LAST):
        (archive / incident / layout.MANIFEST).unlink()
        (archive / incident).rename(archive / f"{incident}{layout.PARTIAL}")
    DAMAGES[damage](archive / f"{BAD}{layout.PARTIAL}" / name)
    with ArchiveReader(str(archive)) as reader:
        assert {one.id for one in reader.summaries() if isinstance(one, IncidentSummary)} >= {FIRST, LAST}
    done = recover(Recover(archive=str(archive), now_s=time.time()))
    assert {FIRST, LAST} <= set(done.sealed)
    assert (BAD in done.sealed) != (BAD in done.reason)
    if name in (layout.STEPS, layout.ARTIFACTS):
        assert BAD in done.sealed, "its files are still there"
    assert (archive / (BAD if BAD in done.sealed else f"{BAD}{layout.PARTIAL}") / "memory/meminfo").exists()


@pytest.mark.parametrize("suffix", ["", layout.PARTIAL, layout.OPENING, layout.DELETING])
@pytest.mark.parametrize("damage", ["a FIFO", "a symlink", "a symlink to itself", "empty"])
def test_name_of_an_incident_that_is_no_directory_costs_only_itself(archive: Path, suffix: str, damage: str) -> None:
    """What has the name of an incident need not be one."""
    (archive / BAD).rename(archive / "elsewhere")
    DAMAGES[damage](archive / f"{BAD}{suffix}")
    with ArchiveReader(str(archive)) as reader:
        assert {one.id for one in reader.summaries() if isinstance(one, IncidentSummary)} == {FIRST, LAST}
        assert {kept.id for kept in inventory(reader)} == {FIRST, LAST}
    done = recover(Recover(archive=str(archive), now_s=time.time()))
    assert (BAD in done.reason) == (suffix == layout.PARTIAL)
    with ArchiveReader(str(archive)) as reader:
        rules = RetentionRules(count=1, age_s=None, size_bytes=None)
        assert [kept.id for kept in prune(reader, rules).gone] == [FIRST]


def test_malformed_line_costs_only_itself(archive: Path) -> None:
    """Of a journal, the lines before and after are still read."""
    directory = archive / f"{BAD}{layout.PARTIAL}"
    (archive / BAD).rename(directory)
    (directory / layout.MANIFEST).unlink()
    good = b'{"step": "memory", "path": "memory/%s", "size_bytes": 1, "data_bytes": 1, "source": "%s"}'
    lines = [good % (b"a", b"x"), good % (b"b", b"\xff"), DEEP, b"", b"7", good % (b"c", b"x"), good[:20]]
    (directory / layout.ARTIFACTS).write_bytes(b"\n".join(lines))
    recover(Recover(archive=str(archive), now_s=time.time()))
    with ArchiveReader(str(archive)) as reader:
        records = [artifact.path for artifact in reader.manifest(BAD).artifacts()]
    assert records == ["memory/a", "memory/c", "memory/meminfo"]


def test_file_that_cannot_be_read_costs_its_incident_no_other_digest(archive: Path) -> None:
    """A missing artifact, or one that is a FIFO, is reported once all others have their digests."""
    manifest = json.loads((archive / BAD / layout.MANIFEST).read_text(encoding="utf-8"))
    artifacts = manifest["steps"][0]["artifacts"]
    artifacts[:0] = [artifacts[0] | {"path": path} for path in ("memory/gone", "memory/fifo")]
    (archive / BAD / layout.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    os.mkfifo(archive / BAD / "memory/fifo")
    with ArchiveReader(str(archive)) as reader:
        with pytest.raises(ArchiveError, match=r"memory/gone.*memory/fifo"):
            add_digests(reader, BAD, hashing.digest)
        checks = {check.path: check for check in verify(reader, BAD, lambda fd, _: hashing.digest(fd))}
    assert checks["memory/meminfo"].checked
    assert checks["memory/gone"].problem
    assert checks["memory/fifo"].problem


def test_bad_block_costs_only_its_file(archive: Path) -> None:
    """What the disk does not return is reported; the rest of the incident, and other incidents, are verified."""
    path = archive / BAD / "memory/meminfo"

    def digest_of(fd: int, _: str = "") -> str:
        if os.path.samestat(os.fstat(fd), path.stat()):
            raise CopyError("cannot read byte 0: Input/output error", errno=errno.EIO)
        return hashing.digest(fd)

    with ArchiveReader(str(archive)) as reader:
        with pytest.raises(ArchiveError, match="Input/output error"):
            add_digests(reader, BAD, digest_of)
        assert [check.checked for check in verify(reader, BAD, digest_of)] == [False]
        add_digests(reader, BAD, hashing.digest)
        (check,) = verify(reader, BAD, digest_of)
    assert "Input/output error" in check.problem
