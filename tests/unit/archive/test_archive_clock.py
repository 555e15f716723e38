"""The archive's clock and counter: what they go by, and what is left of them after any fault."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.archive import clock, layout
from collector.archive.clock import ClockState
from collector.archive.read import ArchiveReader
from collector.host.clock import ClockRecord, Moment


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ArchiveReader]:
    tmp_path.chmod(0o700)
    with ArchiveReader(str(tmp_path)) as opened:
        yield opened


def add(archive: ArchiveReader, number: int, archive_clock_s: float, *, at_s: float = 1e9) -> str:
    """Add what the archive reads of an incident first: its stamp."""
    incident = layout.new_id(at_s)
    directory = Path(archive.path, incident)
    directory.mkdir()
    (directory / layout.HEADER).write_text(json.dumps({"number": number}))
    stamp = {"number": number, "archive_clock_s": archive_clock_s}
    (directory / layout.MANIFEST).write_text(json.dumps(stamp))
    return incident


def test_clock_counts_running_time_of_every_boot(archive: ArchiveReader) -> None:
    """The time between two boots is not known, and does not count; neither does the time before the first look."""
    shown = [
        clock.advance(archive.fd, now=Moment(boot, at_s)).clock_s
        for boot, at_s in (("a", 1000.0), ("a", 1060.0), ("b", 5000.0), ("b", 5001.0), ("a", 9000.0), ("c", 0.0))
    ]
    assert shown == [0.0, 60.0, 60.0, 61.0, 61.0, 61.0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e9)), max_size=20))
def test_clock_never_goes_back(moments: list[tuple[str, float]]) -> None:
    """Also in a restored virtual machine, whose boot goes on from an earlier moment."""
    record = ClockRecord(boot_id="a", boot_s=0.0, clock_s=0.0)
    for boot, at_s in moments:
        shown_s = record.at(Moment(boot, at_s))
        assert shown_s >= record.clock_s
        record = ClockRecord(boot_id=boot, boot_s=at_s, clock_s=shown_s)


def test_clock_gives_a_number_once(archive: ArchiveReader) -> None:
    """Also when every incident was deleted in between."""
    assert [clock.advance(archive.fd, new=1).last_number for _ in range(3)] == [1, 2, 3]
    assert clock.advance(archive.fd, seen=9, new=1).last_number == 10
    assert clock.advance(archive.fd, seen=9).last_number == 10


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"x" * 9999,
        b'{"boot_id": "", "boot_s": 0, "clock_s": -1e99}',
        b'{"boot_id": "", "boot_s": 0, "clock_s": 1e9, "last_number": 1}',
        b'{"boot_id": "", "boot_s": -1e9, "clock_s": 1, "last_number": 1}',
        b'{"boot_id": "", "boot_s": 0, "clock_s": 1, "last_number": 9007199254740992}',
        None,
    ],
)
def test_clock_that_is_lost_is_made_up_from_the_incidents(archive: ArchiveReader, content: bytes | None) -> None:
    """Their numbers are not given again, and none gets older by it, also if the latest stamp is damaged."""
    clock.advance(archive.fd, new=1)
    add(archive, 7, 500.0)
    add(archive, 8, 400.0)
    add(archive, 0, 0.0)
    Path(archive.path, layout.new_id(0.0)).mkdir()  # has nothing
    path = Path(archive.path, layout.CLOCK)
    path.unlink() if content is None else path.write_bytes(content)
    state = clock.advance(archive.fd, new=1)
    assert (state.clock_s, state.last_number) == (400.0, 9)
    assert clock.read(archive.fd, Moment(state.boot_id, state.boot_s + 5.0)).clock_s == 405.0


def test_clock_does_not_go_by_one_damaged_stamp(archive: ArchiveReader) -> None:
    """A number near the end of what a stamp may hold would leave none for later incidents."""
    add(archive, 5, 60.0)
    add(archive, 1 << 51, 50.0)
    add(archive, 1 << 52, 1e9)
    assert clock.advance(archive.fd, new=1, seen=1 << 51).last_number == 6
    assert clock.read(archive.fd).clock_s < 1000.0
    assert clock.number_of(add(archive, 1 << 52, 1.0), archive.fd) == 0


def test_archive_reads_an_incidents_number_in_its_header_first(archive: ArchiveReader) -> None:
    """A manifest may have megabytes; without a header it says the number, and what is not there has none."""
    incident = add(archive, 7, 0.0)
    directory = Path(archive.path, incident)
    (directory / layout.MANIFEST).write_text(json.dumps({"number": 8}))
    assert clock.number_of(incident, archive.fd) == 7
    (directory / layout.HEADER).unlink()
    assert clock.number_of(incident, archive.fd) == 8
    assert clock.number_of(layout.new_id(0.0), archive.fd) == 0


def test_clock_is_not_written_through_a_planted_name(archive: ArchiveReader, tmp_path: Path) -> None:
    """A number is given all the same: no incident fails because of it."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    Path(archive.path, layout.CLOCK).symlink_to(victim)
    assert clock.advance(archive.fd, new=1).last_number == 1
    assert victim.read_bytes() == b"precious"


def test_clock_does_not_wait_long_for_a_lock(archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who holds it delays no incident by more than `LOCK_S`; two equal numbers are then told by their ids."""
    monkeypatch.setattr(clock, "LOCK_S", 0.05)
    clock.advance(archive.fd, new=1)
    with open(Path(archive.path, layout.CLOCK), "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert clock.advance(archive.fd, new=1).last_number == 2


def test_clock_gives_two_writers_different_numbers(archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon, and `run --now` with its archive."""
    monkeypatch.setattr(clock, "LOCK_S", 60.0)
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            with suppress(BaseException), ArchiveReader(archive.path) as own:
                for _ in range(250):
                    clock.advance(own.fd, new=1)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert clock.read(archive.fd).last_number == 1000


def test_clock_state_fits_its_sector() -> None:
    """Whatever it says."""
    state = ClockState(
        boot_id="8" * 36, boot_s=1.234567890123456e-200, clock_s=1.234567890123456e200, last_number=1 << 50
    )
    assert len(json.dumps({name: getattr(state, name) for name in state.__struct_fields__})) <= clock.LENGTH


@settings(max_examples=50)
@given(st.lists(st.floats(0, 4e9), max_size=8))
def test_archive_orders_incidents_by_number_however_the_wall_clock_was_set(
    tmp_path_factory: pytest.TempPathFactory, labels: list[float]
) -> None:
    """`list`, `latest`, and which incidents get their digests."""
    path = tmp_path_factory.mktemp("archive", numbered=True)
    path.chmod(0o700)
    with ArchiveReader(str(path)) as archive:
        old = sorted(add(archive, 0, 0.0, at_s=at_s) for at_s in (3e9, 5e8))
        begun = [add(archive, number, 0.0, at_s=at_s) for number, at_s in enumerate(labels, 1)]
        assert archive.ids() == [*old, *begun]
        assert archive.resolve("latest") == [*old, *begun][-1]
