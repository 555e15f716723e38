"""The core within an Apport report: compressed, then encoded as base64."""

from __future__ import annotations

import binascii
import os
import re
from dataclasses import replace
from functools import partial

from collector.host.apport import CrashReport
from collector.host.compressed_end import MAX_BEHIND_BYTES
from collector.host.elfcore import CoreError, CoreReader
from collector.host.files import PIECE
from collector.host.unpack import UnpackingReader, compression_of

EXCEPTION = "an exception in a Python program, which leaves no core"
NO_CORE = "the Apport report has no core: Apport leaves out one that exceeds 3/4 of the memory then available"
# Apport writes a line for each MiB of the core. This many, as short as possible, take 0.1 s.
MAX_LINES = 100_000
_MAGIC_BYTES = 16
_NEXT_KEY = re.compile(rb"\n[^ \n]")


def core_within(fd: int, report: CrashReport, *, whole: bool = False) -> CoreReader:
    """
    Return a reader of the core in the report *fd*.

    Raises:
        CoreError: If there is none, or it is not encoded or compressed as Apport does.
    """
    if report.core_at is None:
        raise CoreError(EXCEPTION if report.value(b"Traceback") else NO_CORE)
    compression = compression_of(Base64Lines(fd, report.core_at).read(_MAGIC_BYTES))
    if compression is None:
        raise CoreError("the core in the Apport report is not compressed")
    lacks_end = partial(_gzip_lacks_end, report.core_at) if compression.name == "gzip" else None
    ending = replace(compression, lacks_end=lacks_end)
    return UnpackingReader(fd, ending, read_packed=Base64Lines(fd, report.core_at).read, whole=whole)


class Base64Lines:
    """
    Decodes the lines of a value forwards; each begins with a blank and is encoded by itself.

    A line may be as long as the core, if Apport had it compressed already.
    """

    def __init__(self, fd: int, position: int) -> None:
        self._fd = fd
        self._position = position
        self._decoded = b""
        self._lines = 0
        self._open = b""
        """The beginning of a group of four characters."""
        self._at_line = True
        self._ended = False

    def read(self, size: int, _offset: int = 0) -> bytes:
        """
        Return at most *size* further bytes, none only at the end of the value or after `MAX_LINES`.

        Raises:
            CoreError: If a line is not base64.
        """
        while not self._decoded and not self._ended:
            self._decoded = self._next()
        piece, self._decoded = self._decoded[:size], self._decoded[size:]
        return piece

    def _next(self) -> bytes:
        """Decode the next 64 KiB."""
        text = os.pread(self._fd, PIECE, self._position)
        self._position += len(text)
        self._ended = not text
        parts: list[bytes] = []
        lines = text.split(b"\n")
        for number, line in enumerate(lines):
            last = number == len(lines) - 1  # its line break is not there yet
            if self._at_line and line and not line.startswith(b" "):  # the next key
                self._ended = True
                break
            parts.append(self._decode(line.strip(), is_whole=not last))
            self._at_line = not last or (self._at_line and not line)
        self._lines += len(lines) - 1
        self._ended |= self._lines >= MAX_LINES
        return b"".join(parts)

    def _decode(self, characters: bytes, *, is_whole: bool) -> bytes:
        characters = self._open + characters
        whole = len(characters) if is_whole else len(characters) & ~3
        self._open = characters[whole:]
        try:
            return binascii.a2b_base64(characters[:whole], strict_mode=True)
        except binascii.Error as exc:
            raise CoreError(f"the core in the Apport report is damaged: {exc}") from exc


def _gzip_lacks_end(core_at: int, fd: int, unpacked: int) -> bool:
    """The last four bytes are its length modulo 4 GiB; if other values follow, Apport had finished it."""
    tail_at = max(os.fstat(fd).st_size - MAX_BEHIND_BYTES, core_at)
    tail = os.pread(fd, MAX_BEHIND_BYTES, tail_at)
    if _NEXT_KEY.search(tail):
        return False
    line = tail.rstrip().rpartition(b"\n")[2].strip()
    try:
        end = binascii.a2b_base64(line[-12:], strict_mode=True)
    except binascii.Error:
        return True
    return (int.from_bytes(end[-4:], "little") - unpacked) % (1 << 32) > MAX_BEHIND_BYTES
