"""What `status --watch` shows of the flight recorder's rows."""

from __future__ import annotations

import pytest

from collector.cli import watch
from collector.model.recording import COLUMNS, INDEX, MISSING, NO_DISK, SECOND, Second, disk_key, read_second
from collector.model.top_processes import TopProcess


def second(at_s: int, *disks: tuple[int, ...], **known: int) -> Second:
    """Return a row with *disks* and some figures; the kernel has no others."""
    figures = [MISSING] * len(COLUMNS)
    figures[0] = at_s * 10**9
    for name, value in known.items():
        figures[INDEX[name]] = value
    slots = [number for disk in disks for number in disk] + [*NO_DISK] * (4 - len(disks))
    return read_second(SECOND.pack(*figures, *slots))


def test_watch_shows_what_was_reclaimed_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages have 64 KiB on some machines of arm64 and ppc64."""
    before, now = (second(at, pgsteal_direct=5 * at, pgsteal_kswapd=10 * at) for at in (10, 12))
    monkeypatch.setattr(watch, "PAGE_BYTES", 65_536)
    assert watch.reclaimed(before, now) == 15 * 65_536


def test_watch_shows_no_rate_of_what_there_is_not() -> None:
    """The first row, a counter that this kernel does not have, one that fell, and two rows of the same time."""
    assert watch.rate(None, second(1, pgfault=5), "pgfault") == 0
    assert watch.rate(second(1), second(2), "pgfault") == 0
    assert watch.rate(second(1, pgfault=5), second(2, pgfault=3), "pgfault") == 0
    assert watch.rate(second(1, pgfault=5), second(1, pgfault=9), "pgfault") == 0
    assert watch.stalled(second(1, psi_io_some=0), second(3, psi_io_some=500_000), "io") == 25.0


def test_watch_knows_disks_by_their_numbers() -> None:
    """A disk's place changes; the first row in which it is shown has no rates."""
    sda, sdb = (disk_key(4_000, 1), 100, 0, 0, 0), (disk_key(4_000, 2), 0, 100, 7, 0)
    later = (disk_key(4_000, 2), 0, 100 + 4096, 8, 0)
    assert list(watch.disks(second(1, sda, sdb), second(2, later, sda))) == [
        "4000:2 r 0 B/s w 2.0 MiB/s q 8",
        "4000:1 r 0 B/s w 0 B/s q 0",
    ]
    assert list(watch.disks(second(1, sda), second(2, later))) == ["4000:2 r 0 B/s w 0 B/s q 8"]


@pytest.mark.parametrize(
    ("values", "highest", "shown"),
    [((), 0.0, ""), ((0.0, 0.0), 0.0, "▁▁"), ((1.0, 8.0), 0.0, "▂█"), ((50.0,), 100.0, "▅")],
)
def test_watch_bars_end_at_the_largest_value(values: tuple[float, ...], highest: float, shown: str) -> None:
    assert watch.bars(values, highest) == shown


def test_watch_escapes_names_of_processes_once() -> None:
    """A terminal escape is shown as the files of an incident show it."""
    processes = [TopProcess(4_000_077 + n, b"a\x1b[2J\\", 1, 5 << 20, cpu) for n, cpu in enumerate((None, 1234))]
    assert list(watch.top("by CPU", processes)) == [
        "largest by CPU, in the last round:",
        r"   4000077 a\x1b[2J\\          5.0 MiB       ?",
        r"   4000078 a\x1b[2J\\          5.0 MiB  123.4%",
    ]
