"""
Hides secrets in environments and command lines: by the names before them, by their own form, and by the program.

`redaction_names` knows names, `redaction_pairs` what is given to them, `redaction_forms` forms, and `redaction_options`
programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from collector.model.redaction_arguments import CommandLine, hide_text
from collector.model.redaction_forms import MASK
from collector.model.redaction_names import DEFAULT_KEYS, secret_names

# The longest string that execve(2) accepts (MAX_ARG_STRLEN). A longer one was written by the process itself and is
# hidden as a whole, because its name may be in a piece that has already been passed on.
MAX_ENTRY_BYTES = 131_072
# https://TOKEN, user:PASSWORD
_CUT = re.compile(rb"(://|[\w%+.\\-]:)(?!//)([^\s/?#@]++)\Z")


class Redaction(msgspec.Struct, frozen=True, kw_only=True):
    """
    What to hide. Secrets in URLs, known tokens and options such as ``mysql -p...`` are hidden whatever *keys* says.

    Args:
        enabled: ``false`` keeps environments and command lines as they are.
        keys: Names whose values are hidden, ignoring case and accents: of variables, options, headers, JSON keys. With
            ``*`` or ``?``, a glob for the whole name; without, also a word in it: ``token`` stands for ``GITHUB_TOKEN``
            and ``githubToken``. What is only a path, ``true`` and the like stays readable then.
    """

    enabled: bool = True
    keys: tuple[str, ...] = DEFAULT_KEYS

    def environ(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield an environment (``NAME=value`` entries, each terminated by NUL) with secrets hidden."""
        if not self.enabled:
            yield from pieces
            return
        names = secret_names(self.keys)
        for entry in _entries(pieces):
            name, equals, value = entry.partition(b"=")
            if equals:
                yield name + b"=" + (MASK if names.hides(name, value) else hide_text(value, names, name)) + b"\0"
            else:
                yield hide_text(entry, names) + b"\0"

    def command_line(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a command line (arguments, each terminated by NUL) with secrets hidden; see `arguments`."""
        if not self.enabled:
            yield from pieces
            return
        for argument in self.arguments(_entries(pieces)):
            yield argument + b"\0"

    def arguments(self, arguments: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a command line's arguments with secrets hidden, also within an argument that is itself a command."""
        if not self.enabled:
            yield from arguments
            return
        line = CommandLine(secret_names(self.keys))
        yield from map(line.show, arguments)

    def text(self, text: bytes, *, is_cut: bool = False) -> bytes:
        """
        Return a text that may hold a command line, such as one joined with blanks, with secrets hidden.

        If it *is_cut*, what would show that its last word is a password may be missing, so that one is hidden too.
        """
        if not self.enabled:
            return text
        shown = hide_text(text, secret_names(self.keys))
        return _CUT.sub(rb"\1" + MASK, shown) if is_cut else shown


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
