from __future__ import annotations

import os

from collector.host.maps import parse_maps

MAPS = b"""\
55a0-55a1 r--p 00000000 fe:00 260104                     /usr/bin/bash
7f00-7f01 rw-s 00000000 00:17 12                         /dev/shm/engine.1
7f01-7f02 rw-s 00000000 00:17 13                         /dev/shm/two words (deleted)
7f02-7f03 rw-s 00000000 00:17 14                         /dev/shm/line\\012break
7f03-7f04 rw-p 00000000 00:00 0
7f04-7f05 rw-p 00000000 00:00 0                          [heap]
7f05-7f06 rw-s 00000000 00:01 15                         /memfd:x (deleted)
7f06-7f07 rw-s 00000000 00:01 16                         /SYSV00000000 (deleted)
nonsense
00400000-00401000 r--p 00001000 00:17 17                         /dev/shm/low
7f08-7f09 rw-s 00000000 00:17 18                        \x20
"""


def test_parse_maps_gives_files_with_their_inodes() -> None:
    """Anonymous memory is left out; a line break in a name is octal; names in map_files have no leading zeros."""
    found = list(parse_maps(MAPS.splitlines(keepends=True)))
    assert [(mapped.path, mapped.inode) for mapped in found] == [
        (b"/usr/bin/bash", 260104),
        (b"/dev/shm/engine.1", 12),
        (b"/dev/shm/two words (deleted)", 13),
        (b"/dev/shm/line\nbreak", 14),
        (b"/memfd:x (deleted)", 15),
        (b"/SYSV00000000 (deleted)", 16),
        (b"/dev/shm/low", 17),
    ]
    assert found[1].device == os.makedev(0, 0x17)
    assert found[1].addresses == "7f00-7f01"
    assert (found[-1].addresses, found[-1].offset) == ("400000-401000", 4096)
