"""Files of programs and libraries are read only if they are what was mapped, and never for long."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import fake_core
import pytest
from machine import need

from collector.collectors.core.code_reader import CodeReader, mapping_opener, opener
from collector.collectors.core.image import CoreImage
from collector.collectors.core.mapped_memory import MappedMemory
from collector.collectors.core.module import modules_of
from collector.host.core_memory import NO_MEMORY, PickedMemory
from collector.host.core_segments import Segment, content_offset, core_head
from collector.host.core_stream import head_of
from collector.host.corehead import HeadReader
from collector.host.elfcore import MACHINES, Layout, MappedFile
from collector.host.files import Host, OpenFd
from collector.host.mapped_files import MappedFileTable
from collector.host.procfs import Process
from collector.host.syscalls import LIBC, call
from collector.model.errors import StepError

COUNT, STEP = 4, 0x100000
LAYOUT = Layout(word=8, order="<", machine="x86_64")
FIRST_PAGE_BYTES = 4096


def first_page() -> bytes:
    """Return the first page of an ELF file with a build-id."""
    note = fake_core.note(3, bytes(range(20)), name=b"GNU\0")
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 65536, 65536, 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 0x200, 0x200, 0, len(note), len(note), 4)
    return ((header + load + notes).ljust(0x200, b"\0") + note).ljust(FIRST_PAGE_BYTES, b"\0")


def image_of_files(paths: list[bytes], *, flags: int = 5) -> CoreImage:
    """Return a core with the first page of each of these files."""
    layout = Layout(word=8, order="<", machine=MACHINES[62])
    starts = [STEP * (number + 1) for number in range(len(paths))]
    files = fake_core.nt_file([(start, start + 65536, 0, path) for start, path in zip(starts, paths, strict=True)])
    notes = fake_core.note(1, fake_core.prstatus(42, 11, (0,) * 27)) + fake_core.note(0x46494C45, files)
    segments = [Segment(start, 65536, 0, FIRST_PAGE_BYTES, flags) for start in starts]
    head = b"".join(core_head(layout, fake_core.core(b"")[:64], len(notes), segments, count=len(segments))) + notes
    data = head.ljust(content_offset(layout, len(notes), len(segments)), b"\0")
    return CoreImage(head=head_of(HeadReader(data)), memory=PickedMemory(dict.fromkeys(starts, first_page())))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "library"
    path.write_bytes(first_page() + b"code" * 4096)
    return path


def read_behind(image: CoreImage, size: int = 4) -> bytes:
    """Return what is read behind the first page of the first file."""
    with CodeReader(image, modules_of(image), opener(Host("/"))) as code:
        return code.read(STEP + FIRST_PAGE_BYTES, size)


def test_file_that_was_mapped_is_read(library: Path) -> None:
    image = image_of_files([os.fsencode(library)])
    assert modules_of(image).find(STEP + 1) is not None
    assert read_behind(image) == b"code"


def test_file_with_another_first_page_is_not_read(library: Path) -> None:
    library.write_bytes(library.read_bytes().replace(bytes(range(20)), bytes(range(1, 21))))
    assert read_behind(image_of_files([os.fsencode(library)])) == b""


def test_file_without_a_build_id_is_not_read(library: Path) -> None:
    """Two builds may begin alike."""
    image = image_of_files([os.fsencode(library)])
    page = first_page().replace(b"GNU\0", b"XYZ\0")
    library.write_bytes(page + b"code" * 4096)
    object.__setattr__(image, "memory", PickedMemory({STEP: page}))
    assert read_behind(image) == b""


def test_memory_that_was_written_to_is_never_read_from_the_file(library: Path) -> None:
    assert read_behind(image_of_files([os.fsencode(library)], flags=7)) == b""


@pytest.mark.parametrize(
    "path", [b"/", b"relative", b"/../../etc/passwd", b"//x", b"/proc/self/fd/0", b"/dev/zero", b""]
)
def test_path_that_leads_elsewhere_is_not_read(path: bytes) -> None:
    """The paths are what the core says: nothing of them is followed but directories."""
    assert read_behind(image_of_files([path])) == b""


def test_file_behind_a_symlink_is_not_read(library: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(library)
    assert read_behind(image_of_files([os.fsencode(link)])) == b""


def test_file_that_does_not_answer_is_the_last_one() -> None:
    """One on a dead file server: the others are not tried, or each would take as long."""
    opened, go_on = [], threading.Event()

    def hang(file: MappedFile) -> int:
        opened.append(file.path)
        go_on.wait()
        raise FileNotFoundError

    image = image_of_files([b"/server/%d" % number for number in range(COUNT)])
    try:
        with CodeReader(image, modules_of(image), hang) as code:
            found = [code.read(STEP * (number + 1) + FIRST_PAGE_BYTES, 4) for number in range(COUNT)]
    finally:
        go_on.set()
    assert (found, opened) == ([b""] * COUNT, [b"/server/0"])


@pytest.mark.root
def test_mapping_leads_to_its_file_though_that_was_deleted(library: Path) -> None:
    """Of this process, as of one that is held."""
    need("root")
    with library.open("rb") as file, mapped(file.fileno()) as mapping, Process(Host(), os.getpid()) as process:
        library.unlink()
        library.write_bytes(b"another")
        with OpenFd(mapping_opener(process)(mapping)) as fd:
            assert os.pread(fd, 8, FIRST_PAGE_BYTES) == b"codecode"


@pytest.mark.root
def test_device_that_is_mapped_is_not_opened() -> None:
    """That alone may do something."""
    need("root")
    with (
        Path("/dev/zero").open("rb") as file,
        mapped(file.fileno()) as mapping,
        Process(Host(), os.getpid()) as process,
        pytest.raises(StepError, match="not a regular file"),
    ):
        mapping_opener(process)(mapping)


@pytest.mark.root
def test_first_page_that_is_not_in_memory_comes_from_the_mapped_file(library: Path) -> None:
    """A machine short of memory has dropped it: without, nobody would know which build it was."""
    need("root")
    with library.open("rb") as file, mapped(file.fileno()) as mapping, Process(Host(), os.getpid()) as process:
        image = image_of_files([os.fsencode(library)])
        desc = fake_core.nt_file([(STEP, STEP + FIRST_PAGE_BYTES, 0, b"")])
        other = MappedFileTable(LAYOUT, desc)
        with closing(MappedMemory(NO_MEMORY, other, lambda _: mapping_opener(process)(mapping))) as memory:
            object.__setattr__(image, "memory", memory)
            assert [module.build_id for module in modules_of(image)] == [bytes(range(20)).hex()]
            assert memory.read(STEP + FIRST_PAGE_BYTES, 8) == b""


@contextmanager
def mapped(fd: int) -> Iterator[MappedFile]:
    """Map a page of a file during the block, read-only."""
    address = call("mmap", None, FIRST_PAGE_BYTES, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    try:
        yield MappedFile(address, address + FIRST_PAGE_BYTES, 0, b"")
    finally:
        LIBC.munmap(address, FIRST_PAGE_BYTES)
