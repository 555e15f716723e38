"""The record beside an incident of what became of handing it over."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.archive import handover, layout
from collector.archive.prune import prune
from collector.archive.read import ArchiveReader
from collector.model.handover import HandoverRecord, HandoverState
from collector.model.retention import RetentionRules

IDS = [f"20261128T00000{number}.000000Z-aaaaaa" for number in range(4)]
DONE = HandoverRecord(state=HandoverState.DONE, tries=1, exit_status=0)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ArchiveReader]:
    tmp_path.chmod(0o700)
    for number, incident in enumerate(IDS):
        (tmp_path / incident).mkdir()
        (tmp_path / incident / layout.MANIFEST).write_text(f'{{"number": {number}, "owner": "uid {number % 2}"}}')
    with ArchiveReader(str(tmp_path)) as opened:
        yield opened


def test_handover_record_is_whole_however_long_its_texts_are(archive: ArchiveReader) -> None:
    """It stays in its one block; of the output, the end is kept."""
    handover.owe(IDS[0], archive.fd)
    assert handover.read(IDS[0], archive.fd) == HandoverRecord()
    output = "\\x1b" * 5000 + "the end"
    handover.write(IDS[0], HandoverRecord(tries=2, reason='"' * 9000, output=output), archive.fd)
    found = handover.read(IDS[0], archive.fd)
    assert found is not None
    assert (found.tries, found.output[-7:]) == (2, "the end")
    assert os.stat(f"{archive.path}/{IDS[0]}.handover").st_size == handover.LENGTH
    handover.write(IDS[0], DONE, archive.fd)
    assert handover.read(IDS[0], archive.fd) == DONE


def test_handover_record_that_is_damaged_is_not_tried_again(archive: ArchiveReader) -> None:
    """Whoever was sent an incident must not get it twice; and nothing is written through a planted link."""
    handover.owe(IDS[0], archive.fd)
    Path(archive.path, f"{IDS[0]}.handover").write_text("{")
    found = handover.read(IDS[0], archive.fd)
    assert found is not None
    assert (found.state, found.reason) == (HandoverState.FAILED, handover.DAMAGED)
    os.symlink("elsewhere", f"{archive.path}/{IDS[1]}.handover")
    with pytest.raises(OSError, match="symbolic links"):
        handover.write(IDS[1], DONE, archive.fd)
    assert not Path(archive.path, "elsewhere").exists()


def test_handover_waits_only_of_incidents_that_are_sealed(archive: ArchiveReader) -> None:
    """Those under way come later; those done or given up do not come again; of each owner the oldest, if many wait."""
    for incident in IDS:
        handover.owe(incident, archive.fd)
    handover.owe("20261128T000009.000000Z-aaaaaa", archive.fd)
    handover.write(IDS[0], DONE, archive.fd)
    found, more = handover.waiting(archive.fd, limit=2)
    assert ([one.incident for one in found], more) == ([IDS[1], IDS[2]], 1)
    assert [one.owner for one in found] == ["uid 1", "uid 0"]


def test_handover_record_goes_with_its_incident(archive: ArchiveReader) -> None:
    """Retention says which ones were not handed over; what a kill has left of others is cleared up."""
    for incident in (*IDS, "20261128T000009.000000Z-aaaaaa"):
        handover.owe(incident, archive.fd)
    handover.write(IDS[0], DONE, archive.fd)
    os.rename(f"{archive.path}/{IDS[3]}", f"{archive.path}/{IDS[3]}.partial")
    done = prune(archive, RetentionRules(count=1, age_s=None, size_bytes=None))
    assert ([kept.id for kept in done.gone], done.unsent) == (IDS[:2], (IDS[1],))
    left = sorted(path.name for path in Path(archive.path).glob("*.handover"))
    assert left == [f"{IDS[2]}.handover", f"{IDS[3]}.handover"]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_handover_that_succeeded_is_recorded_on_a_full_disk(tmp_path: Path, kind: str) -> None:
    """Its block was reserved when the incident began."""
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        mount.chmod(0o700)
        with ArchiveReader(str(mount)) as archive:
            handover.owe(IDS[0], archive.fd)
            fill = subprocess.run(
                ["dd", "if=/dev/zero", f"of={mount}/fill", "bs=64K"], capture_output=True, check=False
            )
            assert b"No space left" in fill.stderr
            handover.write(IDS[0], DONE, archive.fd)
            assert handover.read(IDS[0], archive.fd) == DONE
    finally:
        subprocess.run(["umount", mount], check=True)
