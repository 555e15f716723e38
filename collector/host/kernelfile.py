"""A file whose contents the kernel generates at each read: opened once, read into one buffer."""

from __future__ import annotations

import mmap
import os
import weakref

from collector.host.files import Host


class KernelFile:
    """A pre-opened file of ``/proc`` or ``/sys``; contents longer than *size* bytes are cut off."""

    def __init__(self, host: Host, path: str, *, size: int) -> None:
        self.path = path
        self._fd = host.open(path)
        weakref.finalize(self, os.close, self._fd)
        self.text = b""
        """What was last read."""
        self._buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)  # takes memory only as far as it is written to
        self._view = memoryview(self._buffer)

    def read(self) -> bytes:
        """Return the current contents."""
        used = 0
        while used < len(self._buffer):
            got = os.preadv(self._fd, [self._view[used:]], used)
            if got == 0:
                break
            used += got
        self.text = bytes(self._view[:used])
        return self.text


class OptionalFile:
    """Such a file, of which some kernels or containers have none: it is then empty."""

    def __init__(self, host: Host, path: str, *, size: int) -> None:
        self.text = b""
        try:
            self._file: KernelFile | None = KernelFile(host, path, size=size)
            self._file.read()
        except OSError:
            self._file = None

    def read(self) -> bytes:
        """Return the current contents; nothing while it cannot be read: its disk was unplugged."""
        if self._file is not None:
            try:
                self.text = self._file.read()
            except OSError:
                self.text = b""
        return self.text


def number_after(text: bytes, key: bytes) -> int | None:
    """
    Return the number after the first *key*; ``None`` without one.

    Ten times as fast as `numbers` where few of many lines are wanted; *key* must tell them from the others.
    """
    at = text.find(key)
    if at < 0:
        return None
    word = text[at + len(key) : at + len(key) + 32].split(None, 1)
    return int(word[0]) if word and word[0].isdigit() else None


def numbers(text: bytes, *, separator: bytes | None = None) -> dict[bytes, int]:
    """
    Parse lines of ``name number ...`` (vmstat, memory.stat) or ``name: number kB`` (meminfo).

    Other lines are ignored; units are not converted.
    """
    found: dict[bytes, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(separator) if separator else line.partition(b" ")
        word = rest.split(None, 1)
        if word and word[0].isdigit():
            found[name] = int(word[0])
    return found
