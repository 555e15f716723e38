"""Hides values whose names suggest secrets, in environments and command lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import msgspec

DEFAULT_KEYS = (
    "*pass*",
    "*secret*",
    "*token*",
    "*key*",
    "*credential*",
    "*auth*",
    "*cookie*",
    "*private*",
    "*dsn*",
    "*connection*string*",
)
MASK = b"[redacted]"
# The longest string that execve(2) accepts (MAX_ARG_STRLEN). A longer one was written by the process itself and is
# hidden as a whole, because its name may be in a piece that has already been passed on.
MAX_ENTRY_BYTES = 131_072

# https://user:password@host, whatever its name is
_URL_PASSWORD = re.compile(rb"(://[^/?#@\s:]*:)[^/?#\s]*@")


class Redaction(msgspec.Struct, frozen=True, kw_only=True):
    """
    What to hide. Passwords in URLs are hidden whatever *keys* says.

    Args:
        enabled: ``false`` keeps environments and command lines as they are.
        keys: Globs for names whose values are hidden, ignoring case: the name before ``=`` (environment)
            or the name of a long option (command line).
    """

    enabled: bool = True
    keys: tuple[str, ...] = DEFAULT_KEYS

    def environ(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield an environment (``NAME=value`` entries, each terminated by NUL) with secrets hidden."""
        if not self.enabled:
            yield from pieces
            return
        secret = _compiled(self.keys)
        for entry in _entries(pieces):
            name, equals, value = entry.partition(b"=")
            hide = bool(equals and value) and secret.match(name) is not None
            yield (name + b"=" + MASK if hide else _URL_PASSWORD.sub(rb"\1" + MASK + b"@", entry)) + b"\0"

    def command_line(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a command line (arguments, each terminated by NUL) with secrets hidden; see `arguments`."""
        if not self.enabled:
            yield from pieces
            return
        for argument in self.arguments(_entries(pieces)):
            yield argument + b"\0"

    def arguments(self, arguments: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield a command line's arguments with secrets hidden.

        They are recognised in ``--name=value``, ``name=value``, ``name: value`` and in the argument after ``--name``,
        also within an argument of several words.
        """
        if self.enabled:
            arguments = _hidden(arguments, _compiled(self.keys))
        yield from arguments


def _hidden(arguments: Iterable[bytes], secret: re.Pattern[bytes], *, words: bool = False) -> Iterator[bytes]:
    """Yield *arguments*, or the *words* of one (``sh -c "..."``), with secrets hidden."""
    rest_is_secret = after_secret_option = False
    for argument in arguments:
        if rest_is_secret or (after_secret_option and not argument.startswith(b"--")):
            after_secret_option = False
            yield MASK
            continue
        name, separator, value = _split(argument)
        if b" " not in name and secret.match(name.lstrip(b"-")) is not None:
            after_secret_option = not separator and name.startswith(b"-")
            rest_is_secret = words and separator == b":" and not value  # Authorization: Bearer ...
            yield name + separator + (MASK if value else b"")
        elif b" " in argument:
            after_secret_option = False
            yield b" ".join(_hidden(argument.split(b" "), secret, words=True))
        else:
            after_secret_option = False
            yield _URL_PASSWORD.sub(rb"\1" + MASK + b"@", argument)


@lru_cache(maxsize=8)
def _compiled(keys: tuple[str, ...]) -> re.Pattern[bytes]:
    """Return a pattern that matches names of secrets."""
    parts = [re.escape(key.encode()).replace(rb"\*", rb"[^=\0]*").replace(rb"\?", rb"[^=\0]") for key in keys]
    return re.compile(rb"(?:" + rb"|".join(parts) + rb")\Z" if parts else rb"(?!)", re.IGNORECASE)


def _split(argument: bytes) -> tuple[bytes, bytes, bytes]:
    """Split at the first ``=`` or ``:``."""
    match = re.search(rb"[=:]", argument)
    return (argument[: match.start()], match[0], argument[match.end() :]) if match else (argument, b"", b"")


def _entries(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the entries between NULs; one longer than `MAX_ENTRY_BYTES` is hidden."""
    carry = b""
    too_long = False
    for piece in pieces:
        *whole, carry = (carry + piece).split(b"\0")
        for entry in whole:
            yield MASK if too_long else entry
            too_long = False
        if len(carry) > MAX_ENTRY_BYTES:
            carry, too_long = b"", True
    if carry or too_long:
        yield MASK if too_long else carry
