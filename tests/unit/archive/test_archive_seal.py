"""Sealing, and what the archive refuses."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from collector.archive import directory, layout
from collector.archive.read import ArchiveReader
from collector.archive.seal import seal
from collector.archive.store import ArtifactLine, Store
from collector.cli.show import show_command
from collector.model.errors import ArchiveError
from collector.model.incident import HoldRecord, IncidentHeader, IncidentState, LeftOut, StepEnd, StepStatus
from collector.model.marker import Marker, MarkerKind
from collector.runner.protocol import Recover
from collector.runner.recover_job import recover

MARKER = Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=1.0, reason="test")


def header(*planned: str) -> IncidentHeader:
    return IncidentHeader(
        version=1,
        id=layout.new_id(1_700_000_000.0),
        pipeline="crash",
        markers=(MARKER,),
        host="box",
        boot_id="b",
        kernel="6.18",
        collector_version="0",
        config_hash="c",
        started_s=1.0,
        planned=planned,
    )


def artifact(store: Store, incident: str, step: str, name: str, data: bytes = b"x") -> None:
    with store.incident(incident) as fd:
        with directory.opened(step, fd, create=True) as inner:
            directory.replace(name, data, inner)
        line = ArtifactLine(step=step, path=f"{step}/{name}", size_bytes=len(data), data_bytes=len(data))
        directory.append(layout.ARTIFACTS, msgspec.json.encode(line), fd, durable=False)


def end(step: str, status: StepStatus = StepStatus.OK) -> StepEnd:
    return StepEnd(id=step, collector="proc_files", status=status)


@pytest.fixture
def store(tmp_path: Path):
    with Store(str(tmp_path / "archive")) as opened:
        yield opened


def test_seal_counts_a_step_that_was_run_although_it_had_been_left_out(store: Store) -> None:
    """Killed meanwhile or not: what it collected is listed, and only what was never run stays left out."""
    left_out = tuple(LeftOut(id=step, reason="signal is unknown") for step in ("late", "lost", "never"))
    opened = msgspec.structs.replace(header("early"), left_out=left_out)
    os.close(store.begin(opened))
    artifact(store, opened.id, "lost", "a")
    manifest = seal(store, opened.id, ended_s=2.0, interrupted=True, ends=(end("early"), end("late")))
    assert {step.id: str(step.status) for step in manifest.steps} == {"early": "ok", "late": "ok", "lost": "failed"}
    assert manifest.planned == ("early", "late", "lost")
    assert [step.id for step in manifest.left_out] == ["never"]


def begin(store: Store, *planned: str) -> str:
    opened = header(*planned)
    os.close(store.begin(opened))
    return opened.id


def test_seal_publishes_a_complete_incident(store: Store) -> None:
    """If all steps are ok it is complete; its partial directory is renamed."""
    incident = begin(store, "memory")
    artifact(store, incident, "memory", "meminfo")
    store.record_steps(incident, [end("memory")])
    manifest = seal(store, incident, ended_s=2.0, interrupted=False)
    assert manifest.state is IncidentState.COMPLETE
    assert [record.path for record in manifest.steps[0].artifacts] == ["memory/meminfo"]
    assert sorted(os.listdir(store.fd)) == [incident, layout.CLOCK]
    with ArchiveReader(store.path) as archive:
        assert archive.manifest(incident) == manifest


def test_seal_says_complete_when_a_step_does_not_apply(store: Store) -> None:
    """A run by hand without a PID has no crashed process, and lacks nothing."""
    incident = begin(store, "memory", "core")
    store.record_steps(incident, [end("memory"), end("core", StepStatus.NOT_APPLICABLE)])
    assert seal(store, incident, ended_s=2.0, interrupted=False).state is IncidentState.COMPLETE


def test_seal_says_incomplete_when_a_step_is_not_ok(store: Store) -> None:
    """A skipped step is not an error, but the incident lacks something."""
    incident = begin(store, "memory", "shm")
    store.record_steps(incident, [end("memory")])
    store.record_steps(incident, [end("shm", StepStatus.SKIPPED)])
    assert seal(store, incident, ended_s=2.0, interrupted=False).state is IncidentState.INCOMPLETE


def test_seal_keeps_what_a_killed_run_left(store: Store) -> None:
    """Recorded artifacts are kept; a file without a record is listed as truncated."""
    incident = begin(store, "memory", "shm", "core")
    artifact(store, incident, "memory", "meminfo")
    store.record_steps(incident, [end("memory")])
    with store.incident(incident) as fd, directory.opened("shm", fd, create=True) as inner:
        directory.replace("0001.part", b"half", inner)
    manifest = seal(store, incident, ended_s=2.0, interrupted=True)
    assert manifest.state is IncidentState.INTERRUPTED
    found = {step.id: step for step in manifest.steps}
    assert found["memory"].status is StepStatus.OK
    assert found["shm"].status is StepStatus.FAILED
    assert found["shm"].artifacts[0].truncated
    assert found["shm"].artifacts[0].path == "shm/0001.part"
    assert "core" not in found


def test_seal_can_be_called_again_after_a_kill(store: Store) -> None:
    """After a kill between manifest and rename, the existing manifest is kept."""
    incident = begin(store, "memory")
    store.record_steps(incident, [end("memory")])
    first = seal(store, incident, ended_s=2.0, interrupted=False)
    os.rename(incident, incident + layout.PARTIAL, src_dir_fd=store.fd, dst_dir_fd=store.fd)
    assert seal(store, incident, ended_s=9.0, interrupted=True) == first


def test_seal_ignores_a_line_that_was_cut_short(store: Store) -> None:
    """The run may be killed in the middle of an append."""
    incident = begin(store, "memory")
    store.record_steps(incident, [end("memory")])
    with store.incident(incident) as fd:
        directory.append(layout.STEPS, b'{"id": "mem', fd, durable=False)
    assert len(seal(store, incident, ended_s=2.0, interrupted=False).steps) == 1


def test_seal_never_replaces_an_incident(store: Store) -> None:
    """An incident is immutable once renamed."""
    incident = begin(store)
    os.mkdir(incident, dir_fd=store.fd)
    with pytest.raises(FileExistsError):
        seal(store, incident, ended_s=2.0, interrupted=False)


def test_claim_is_refused_for_an_incident_under_way(store: Store) -> None:
    """The lock of a live run keeps another process from sealing its incident."""
    opened = header("memory")
    lock = store.begin(opened)
    assert store.unfinished() == [opened.id]
    with store.claimed(opened.id + layout.PARTIAL) as ours:
        assert not ours
    os.close(lock)
    with store.claimed(opened.id + layout.PARTIAL) as ours:
        assert ours
        with store.claimed(opened.id + layout.PARTIAL) as again:
            assert not again


def test_seal_leaves_out_names_that_are_not_its_own(store: Store) -> None:
    """And says how many: one that `read_manifest` refuses, or JSON cannot hold, would cost all others."""
    incident = begin(store, "memory")
    artifact(store, incident, "memory", "meminfo")
    artifact(store, incident, "memory", "a b")
    with store.incident(incident) as fd:
        directory.append(layout.ARTIFACTS, b'{"path": "../x", "size_bytes": 1, "data_bytes": 1}', fd, durable=False)
        with directory.opened("memory", fd) as inner:
            for name in (b"\xff", b"\xff.part"):
                os.close(os.open(name, directory.CREATE_FLAGS, dir_fd=inner))
    assert recover(Recover(archive=store.path, now_s=2.0, wait_s=0.0)).reason == ""
    with ArchiveReader(store.path) as archive:
        manifest = archive.manifest(incident)
    assert [record.path for record in manifest.artifacts()] == ["memory/meminfo"]
    assert manifest.foreign_names == 4


def test_seal_lists_what_steps_collected_that_the_header_does_not_name(store: Store) -> None:
    """The journal says that they ran; a directory that is no step's is counted."""
    incident = begin(store)
    for step in ("memory", "unknown"):
        artifact(store, incident, step, "a")
    store.record_steps(incident, [end("memory")])
    manifest = seal(store, incident, ended_s=2.0, interrupted=True)
    assert [record.path for record in manifest.artifacts()] == ["memory/a"]
    assert manifest.foreign_names == 1


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b'"id":"2', b'"id":"3', ""),
        (b'"attributed":true', b'"attributed":false', ""),
        (b'"version":1', b'"version":2', "the header has version 2"),
        (b'"trigger":"manual"', b'"trigger":"man\xffal"', "no readable incident.json"),
        (None, b'"markers":[]', "the header names no marker"),
    ],
)
def test_incident_with_a_damaged_header_is_sealed_so_that_it_can_be_read_or_reported(
    store: Store, old: bytes | None, new: bytes, problem: str
) -> None:
    """Under the id by which it is found; what it holds stays there."""
    incident = begin(store, "memory")
    with store.incident(incident) as fd:
        text = directory.read(layout.HEADER, fd, limit=1 << 20)
        if old is None:
            text = msgspec.json.encode(msgspec.json.decode(text) | msgspec.json.decode(b"{%s}" % new))
        directory.replace(layout.HEADER, text.replace(old, new) if old else text, fd)
    done = recover(Recover(archive=store.path, now_s=2.0, wait_s=0.0))
    assert problem in done.reason
    assert os.path.isdir(f"{store.path}/{incident}{layout.PARTIAL if problem else ''}")
    with ArchiveReader(store.path) as archive:
        (shown,) = archive.summaries()
    assert isinstance(shown, str) if problem else shown.id == incident


def test_begin_shows_an_incident_only_with_its_header(store: Store) -> None:
    """A directory without a header is removed, unless another process holds its lock."""
    for name in ("20261123T000000.000000Z-aaaaaa", "20261123T000000.000000Z-bbbbbb"):
        os.mkdir(name + layout.OPENING, dir_fd=store.fd)
    with store.claimed("20261123T000000.000000Z-bbbbbb" + layout.OPENING):
        store.clear_unopened()
        assert os.listdir(store.fd) == ["20261123T000000.000000Z-bbbbbb" + layout.OPENING]
    os.symlink("/nowhere", "20261123T000000.000000Z-cccccc" + layout.OPENING, dir_fd=store.fd)
    os.mkfifo("20261123T000000.000000Z-dddddd" + layout.OPENING, dir_fd=store.fd)
    assert store.clear_unopened() == {}
    assert os.listdir(store.fd) == []


def test_manifest_refuses_paths_that_lead_out(store: Store) -> None:
    """`../` in a forged manifest is an error."""
    incident = begin(store, "memory")
    artifact(store, incident, "memory", "meminfo")
    store.record_steps(incident, [end("memory")])
    seal(store, incident, ended_s=2.0, interrupted=False)
    path = Path(store.path, incident, layout.MANIFEST)
    for planted in ("../../etc/shadow", "/etc/shadow", "memory/../../x", "memory//x", ""):
        text = path.read_text()
        path.write_text(text.replace("memory/meminfo", planted))
        with ArchiveReader(store.path) as archive, pytest.raises(ArchiveError, match="not a path within"):
            archive.manifest(incident)
        path.write_text(text)


def test_archive_refuses_a_directory_that_others_can_write_to(tmp_path: Path) -> None:
    """They could plant names there."""
    tmp_path.chmod(0o777)
    with pytest.raises(ArchiveError, match="0777"):
        Store(str(tmp_path))


def test_archive_refuses_a_symlink(tmp_path: Path) -> None:
    """The last component must be the directory itself."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ArchiveError):
        Store(str(tmp_path / "link"))


def test_files_in_the_archive_are_for_their_owner_only(store: Store) -> None:
    """0700 and 0600, whatever the umask."""
    old = os.umask(0)
    try:
        incident = begin(store, "memory")
        artifact(store, incident, "memory", "meminfo")
    finally:
        os.umask(old)
    for path in Path(store.path).rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert Path(store.path).stat().st_mode & 0o777 == 0o700


def test_give_back_frees_what_a_killed_copy_had_reserved(tmp_path: Path) -> None:
    """A copy reserves all of its space first; if it is killed early, that must not stay reserved."""
    (tmp_path / "shm").mkdir()
    path = tmp_path / "shm" / "0001.part"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 << 20)
        os.pwrite(file.fileno(), b"x" * (1 << 20), 1 << 20)
        os.fsync(file.fileno())
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        assert directory.give_back("shm/0001.part", root) == (2 << 20, 1 << 20)
    finally:
        os.close(root)
    assert path.stat().st_size == 2 << 20
    assert path.stat().st_blocks * 512 <= (2 << 20) + 4096


OLD_VERDICT = """{"decision": "skip", "available_bytes": 15620907008, "budget_bytes": 1048576,
 "floor_bytes": 562949953421312,
 "objections": [{"term": "floor", "said": "too little"}, {"term": "psi", "said": "memory full avg10 is 6.00 %"}],
 "psi_full_avg10_percent": 6.0, "disk_free_bytes": 85042171904, "waited_s": 0.0}"""
"""As written by 0.1.0, whose gate had other terms and no step classes."""


def test_manifest_of_an_earlier_release_is_read(store: Store) -> None:
    """An upgrade must not make old incidents unreadable."""
    incident = begin(store, "memory")
    seal(store, incident, ended_s=2.0, interrupted=False)
    path = Path(store.path, incident, layout.MANIFEST)
    old = msgspec.json.decode(path.read_bytes())
    verdict = msgspec.json.decode(OLD_VERDICT)
    old["steps"] = [{"id": "memory", "collector": "proc_files", "status": "skipped", "verdict": verdict}]
    path.write_bytes(msgspec.json.encode(old))
    with ArchiveReader(store.path) as archive:
        (step,) = archive.manifest(incident).steps
    assert step.verdict is not None
    assert (step.verdict.reason, step.verdict.step_class) == ("too little; memory full avg10 is 6.00 %", None)


def test_manifest_says_for_how_long_the_process_was_held(store: Store) -> None:
    """One that a killed run left behind does not know it."""
    first, second = header(), msgspec.structs.replace(header(), id=layout.new_id(1_700_000_001.0))
    for opened in (first, second):
        os.close(store.begin(opened))
    hold = HoldRecord(seconds=0.25, ended="its dump was received")
    assert seal(store, first.id, ended_s=2.0, interrupted=False, hold=hold).hold == hold
    with ArchiveReader(store.path) as archive:
        assert archive.manifest(first.id).hold == hold
    shown = CliRunner().invoke(show_command, [first.id, "--steps", "--archive", store.path], standalone_mode=False)
    assert "held      0.25 s: its dump was received" in shown.output
    assert seal(store, second.id, ended_s=2.0, interrupted=True).hold is None
