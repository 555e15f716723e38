"""Standard streams: closed ones are opened, and what a terminal cannot show is escaped."""

from __future__ import annotations

import codecs
import fcntl
import io
import locale
import os
import sys

PLAIN_ASCII = "plain_ascii"


def prepare() -> None:
    """Make sure that writing to the standard streams neither raises `UnicodeEncodeError` nor hits another file."""
    _open_closed()
    codecs.register(_plain_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=_encoding(stream), errors="backslashreplace")


def output_is_closed() -> bool:
    """Return whether standard output cannot be written to: it was closed (``>&-``), or opened for reading."""
    return fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def _open_closed() -> None:
    """
    Give closed streams a descriptor: the next file that is opened would take their number.

    Standard output gets one that cannot be written to, so that results are not lost in silence.
    """
    for fd, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open


def _encoding(stream: io.TextIOWrapper) -> str:
    """
    Return the locale's encoding for a terminal; else, UTF-8 or what PYTHONIOENCODING asks for.

    UTF-8 on an 8-bit terminal is worse than unreadable: 0x9B, the second byte of many letters, begins a control
    sequence there.
    """
    asked = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]  # an isolated Python does not look at it
    name = asked or (locale.getencoding() if stream.isatty() else stream.encoding)
    try:
        known = codecs.lookup(name).name
    except LookupError:
        known = "ascii"
    return PLAIN_ASCII if known == "ascii" else known


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    """Return ASCII under a name that click does not know: it writes UTF-8 to a stream whose encoding is ASCII."""
    if name != PLAIN_ASCII:
        return None
    found = codecs.lookup("ascii")
    encoder, decoder = found.incrementalencoder, found.incrementaldecoder
    return codecs.CodecInfo(
        found.encode, found.decode, incrementalencoder=encoder, incrementaldecoder=decoder, name=PLAIN_ASCII
    )
