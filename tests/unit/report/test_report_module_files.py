"""Which files are opened because a core names them, and which are taken for its modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyinotify
import pytest

from collector.report.core_modules import CoreModule
from collector.report.elf_image import PAGE_BYTES, build_id
from collector.report.module_files import examine, open_program

PROGRAM = Path(os.path.realpath(sys.executable))


def module(path: Path, *, known: str = "", first_page: bytes = b"") -> CoreModule:
    return CoreModule(start=0x1000, end=0x2000, path=os.fsencode(path), build_id=known, first_page=first_page)


def test_what_is_not_a_regular_file_is_not_even_opened(tmp_path: Path) -> None:
    """A core may name the device of a watchdog, which starts when root opens it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    watches = pyinotify.WatchManager()
    notifier = pyinotify.Notifier(watches)
    try:
        watches.add_watch(str(fifo), pyinotify.IN_OPEN)
        assert open_program(module(fifo, first_page=b"\x7fELF")) is None
        assert examine(module(fifo), str(fifo)).problem == "it is a FIFO, not a regular file"
        assert not notifier.check_events(timeout=100)
    finally:
        notifier.stop()


def test_file_is_taken_by_its_build_id_or_else_its_first_page(tmp_path: Path) -> None:
    """Without either nothing is taken, and that is said."""
    data = PROGRAM.read_bytes()
    known = build_id(lambda offset, size: data[offset : offset + size])
    for one in (module(PROGRAM, known=known or "00"), module(PROGRAM, first_page=data[:PAGE_BYTES])):
        fd = open_program(one)
        assert (fd is not None) == (one.build_id in {"", known})
        if fd is not None:
            os.close(fd)
    assert open_program(module(PROGRAM, known="ab" * 20)) is None
    assert open_program(module(PROGRAM, first_page=data[:100] + b"other")) is None
    assert open_program(module(PROGRAM)) is None
    assert not examine(module(PROGRAM), str(PROGRAM)).checked
    assert examine(module(PROGRAM), str(tmp_path / "none")).problem == "No such file or directory"


@pytest.mark.parametrize("at", [24, 32, 40, 54, 56])
@pytest.mark.parametrize("value", [b"\xff" * 8, b"\0" * 8, b"\x7f" * 8])
def test_damaged_image_has_no_build_id_or_the_one_it_has(at: int, value: bytes) -> None:
    """Every length and offset in an ELF header may be a lie."""
    data = bytearray(PROGRAM.read_bytes()[: 64 << 10])
    data[at : at + len(value)] = value
    assert len(build_id(lambda offset, size: bytes(data[offset : offset + size]))) <= 128
