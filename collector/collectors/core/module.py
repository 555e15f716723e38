"""The programs and libraries that a core has mapped, as their own first pages in the core describe them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from collector.collectors.core.auxv import AT_SYSINFO_EHDR
from collector.collectors.core.image import CoreImage
from collector.host.core_segments import PF_X
from collector.host.elf_notes import raw_notes
from collector.host.elfcore import (
    PT_LOAD,
    PT_NOTE,
    MappedFile,
    ProgramHeader,
    entry_bytes,
    header_bytes,
    program_header,
)
from collector.model.text import escape

PT_GNU_EH_FRAME = 0x6474E550
NT_GNU_BUILD_ID, NT_FDO_PACKAGE = 3, 0xCAFE1A7E
VDSO = b"[vdso]"
DELETED = b" (deleted)"
MAX_MODULES = 1024
"""A browser maps about 250."""

MAX_PROGRAM_HEADERS = 64
MAX_NOTES_BYTES = 4096
MAX_BUILD_ID_BYTES = 64  # ld writes 20; a user may give any (--build-id=0x...)
MAX_PACKAGE_BYTES = 1024
VERSION = re.compile(r"[-.\d]*\.so[.\d]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """
    A program or library.

    Args:
        path: As mapped; without the kernel's mark that it was deleted.
        start: Its lowest address, from which offsets count.
        end: Behind its highest address.
        bias: What is added to the addresses in its file; ``None`` if its first page is not in the core.
        build_id: In hexadecimal; empty if it is not in the core.
        package: Its package note, a JSON text.
        unwind_at: The address of its ``.eh_frame_hdr``; 0 if it is not known.
        mappings: Of its file, by address; none of the vdso.
    """

    path: bytes
    start: int
    end: int
    bias: int | None = None
    build_id: str = ""
    package: bytes = b""
    unwind_at: int = 0
    mappings: tuple[MappedFile, ...] = ()

    @property
    def name(self) -> str:
        """Its file's name, escaped."""
        return escape(self.path.rpartition(b"/")[2])

    @property
    def stable_name(self) -> str:
        """Its name without a library's version, which the next build changes."""
        return VERSION.sub(".so", self.name).replace("|", "_")


class ModuleRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``modules.jsonl``; addresses in hexadecimal."""

    start: str
    end: str
    path: str
    bias: str = ""
    build_id: str = ""
    package: dict[str, str] = {}


class ModuleTable:
    """The modules of a core, by address, at most `MAX_MODULES`."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self._modules = sorted(modules, key=lambda module: module.start)
        self._starts = [module.start for module in self._modules]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules)

    def find(self, address: int) -> Module | None:
        """Return the module that *address* is in."""
        index = bisect_right(self._starts, address) - 1
        return self._modules[index] if index >= 0 and address < self._modules[index].end else None


def modules_of(image: CoreImage) -> ModuleTable:
    """Return the modules of a core: files mapped from their beginning with executable parts, and the vdso."""
    found = [_described(image, group) for _, group in zip(range(MAX_MODULES), _groups(image), strict=False)]
    if (vdso := _vdso(image)) is not None:
        found.append(vdso)
    return ModuleTable(found)


def row_of(module: Module) -> ModuleRow:
    """Return a module as a line of ``modules.jsonl``."""
    return ModuleRow(
        start=f"{module.start:#x}",
        end=f"{module.end:#x}",
        path=escape(module.path),
        bias="" if module.bias is None else f"{module.bias:#x}",
        build_id=module.build_id,
        package=package_of(module),
    )


def package_of(module: Module) -> dict[str, str]:
    """Return what a module's package note says, escaped; empty if it is none, or no flat JSON object."""
    try:
        said = msgspec.json.decode(module.package, type=dict[str, str]) if module.package else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return {escape(key.encode()): escape(value.encode()) for key, value in said.items()}


def _groups(image: CoreImage) -> Iterator[list[MappedFile]]:
    """Yield the mappings of each file that is mapped from its beginning, if some of them are executable."""
    group: list[MappedFile] = []
    for file in image.files:
        if group and (file.path != group[0].path or file.offset == 0 or file.start < group[-1].end):
            if _is_executable(image, group):
                yield group
            group = []
        if file.start < file.end:
            group.append(file)
    if group and _is_executable(image, group):
        yield group


def _is_executable(image: CoreImage, group: list[MappedFile]) -> bool:
    segments = (image.segments.find(file.start) for file in group)
    return any(segment is not None and segment.flags & PF_X for segment in segments)


def _described(image: CoreImage, group: list[MappedFile]) -> Module:
    path = group[0].path.removesuffix(DELETED)
    module = Module(path=path, start=group[0].start, end=group[-1].end, mappings=tuple(group))
    return _with_headers(image, module) if group[0].offset == 0 else module


def _vdso(image: CoreImage) -> Module | None:
    """Return the kernel's own library; its only segment is dumped as a whole."""
    start = image.auxv.get(AT_SYSINFO_EHDR, 0)
    segment = image.segments.find(start) if start else None
    return None if segment is None else _with_headers(image, Module(path=VDSO, start=start, end=segment.end))


def _program_headers(image: CoreImage, start: int) -> list[ProgramHeader]:
    """Return the program headers of the ELF file that is mapped at *start*; none if they are not in the core."""
    layout = image.layout
    head = image.memory.read(start, header_bytes(layout.word))
    if len(head) < header_bytes(layout.word) or head[:4] != b"\x7fELF" or (head[4] == 2) != (layout.word == 8):
        return []
    (at,) = layout.unpack("W", head, 24 + layout.word)
    _, entry, count = layout.unpack("HHH", head, 24 + 3 * layout.word + 4)
    size = entry_bytes(layout)
    if entry != size or at > 1 << 20:
        return []
    raw = image.memory.read(start + at, min(count, MAX_PROGRAM_HEADERS) * size)
    return [program_header(layout, raw, at) for at in range(0, len(raw) - size + 1, size)]


def _with_headers(image: CoreImage, module: Module) -> Module:
    """Return *module* with what its program headers lead to, as far as they are in the core."""
    headers = _program_headers(image, module.start)
    first = next((header for header in headers if header.kind == PT_LOAD), None)
    if first is None:
        return module
    bias = module.start - (first.address - first.offset)
    build_id, package = b"", b""
    for header in headers:
        if header.kind == PT_NOTE and not (build_id and package):
            found = _notes(image, bias + header.address, header.memory_bytes)
            build_id, package = build_id or found[0], package or found[1]
    unwind = next((bias + header.address for header in headers if header.kind == PT_GNU_EH_FRAME), 0)
    return replace(module, bias=bias, build_id=build_id.hex(), package=package, unwind_at=max(0, unwind))


def _notes(image: CoreImage, address: int, size: int) -> tuple[bytes, bytes]:
    """Return the build-id and the package note among the notes at *address*, as far as these are in the core."""
    build_id, package = b"", b""
    if address < 0:
        return build_id, package
    data = memoryview(image.memory.read(address, min(size, MAX_NOTES_BYTES)))
    for note in raw_notes(image.layout, data):
        if note.type == NT_GNU_BUILD_ID and note.name == b"GNU":
            build_id = build_id or bytes(note.desc[:MAX_BUILD_ID_BYTES])
        elif note.type == NT_FDO_PACKAGE and note.name == b"FDO":
            package = package or bytes(note.desc[:MAX_PACKAGE_BYTES]).rstrip(b"\0")
    return build_id, package
