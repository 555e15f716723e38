"""Scans of directories, by turns for each owner."""

from __future__ import annotations

from collections.abc import Iterator

from collector.triggers.directory import Directory, FileEvent
from collector.triggers.scans import BATCH, Scans


def directory(owner: str, number: int = 0) -> Directory:
    return Directory(f"/{owner}", (0, number), owner, 0)


def entries(one: Directory) -> Iterator[FileEvent | None]:
    """Three batches; the names are numbers."""
    for number in range(3 * BATCH):
        yield FileEvent(one, str(number), closed=False)


def owners(scans: Scans) -> list[str]:
    return sorted({event.directory.owner for event in scans.batch() if event is not None})


def test_scans_take_turns_by_owner() -> None:
    """However many directories one has."""
    scans = Scans(entries)
    for number in range(100):
        scans.add(directory("uid 1", number))
    scans.add(directory("root"))
    assert [owners(scans) for _ in range(4)] == [["uid 1"], ["root"], ["uid 1"], ["root"]]


def test_scan_that_is_asked_for_again_comes_to_its_end_first() -> None:
    """Whoever keeps the kernel's queue full does not keep a scan from ever coming to its end."""
    scans, one = Scans(entries), directory("root")
    names: list[str] = []
    for _ in range(6):
        scans.add(one)
        names += [event.name for event in scans.batch() if event is not None]
    assert names[: 3 * BATCH] == [str(number) for number in range(3 * BATCH)]
    assert names[3 * BATCH] == "0"


def test_scans_are_over_when_there_is_nothing_left() -> None:
    """A directory that is gone by then is not scanned."""
    scans, one = Scans(entries), directory("root")
    scans.add(one)
    scans.discard(one)
    assert list(scans.batch()) == []
    assert not scans
