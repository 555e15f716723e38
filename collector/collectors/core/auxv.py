"""
The auxiliary vector: what the kernel told the program when it started.

Source: getauxval(3); include/uapi/linux/auxvec.h (Linux 6.18).
"""

from __future__ import annotations

from collector.host.elfcore import Layout

AT_PHDR, AT_PHNUM, AT_BASE, AT_ENTRY, AT_PLATFORM, AT_EXECFN, AT_SYSINFO_EHDR = 3, 5, 7, 9, 15, 31, 33


def parse_auxv(layout: Layout, desc: bytes | memoryview) -> dict[int, int]:
    """Return NT_AUXV by type."""
    words = layout.unpack(f"{len(desc) // layout.word}W", desc)
    return dict(zip(words[::2], words[1::2], strict=False))
