"""Hides secrets in command lines: what programs and options in them say about the argument after them."""

from __future__ import annotations

import re

from collector.model.redaction_forms import MASK, hide_forms
from collector.model.redaction_names import SecretNames
from collector.model.redaction_options import ProgramOptions, program_options
from collector.model.redaction_pairs import hide_pairs, hide_whole

_SHORT = re.compile(rb"[\w./+-]{0,7}\Z")  # most arguments: no name with a value, and shorter than every known token
_BLANK = re.compile(rb"\s")
_WORD = re.compile(rb"""(?s)(?:[^\s"'\\]++|\\.|"(?:[^"\\]|\\.)*+"|'[^']*+'|["'\\])++""")
_SCRIPT = re.compile(rb"-[a-z]*c\Z")  # sh -c, bash -lc
_ACCOUNT = re.compile(rb"((?:userid=)?[^/@=]{1,64}/)([^@]++)")  # sqlplus user/password@database
_AROUND = b"\"'`\\$(){};"
_QUOTES = frozenset({b'"', b"'"})
_MAX_NAME_BYTES = 255  # NAME_MAX; what is known of a name is remembered
_MAX_DEPTH = 3  # a command in quotes in a command in quotes


def hide_text(text: bytes, names: SecretNames) -> bytes:
    """Hide secrets in a text which may hold options or a whole command line: a variable's value, a process's title."""
    if _SHORT.match(text):
        return text
    if _BLANK.search(text):
        text = _words(text, names, 1)
    return hide_pairs(hide_forms(text), names)


class CommandLine:
    """
    Takes a command line's arguments one by one, and tells how each is shown.

    Args:
        depth: 0 for a real command line; more within an argument, where any word may be the name of a program.
    """

    def __init__(self, names: SecretNames, *, depth: int = 0) -> None:
        self._names = names
        self._depth = depth
        self._program: ProgramOptions | None = None
        self._is_first = depth == 0
        self._awaited_by: bytes | None = None
        self._sign = ""
        self._left: int | None = None
        self._is_script = False

    def show(self, argument: bytes) -> bytes:
        """Return the next argument with its secrets hidden."""
        if self._depth == 0:
            shown = self._show(argument, argument)
            self._is_script = _SCRIPT.match(argument) is not None
            return shown
        return self._show(argument, argument.strip(_AROUND))

    def _show(self, argument: bytes, bare: bytes) -> bytes:
        if self._awaited_by is not None and not bare.startswith(b"--"):
            return self._value(argument, bare)
        self._awaited_by = None
        if bare.startswith(b"-"):
            return self._option(argument, bare)
        if self._starts(bare):
            return self._text(argument)
        return self._operand(argument, bare)

    def _starts(self, bare: bytes) -> bool:
        """Whether this is the name of a program, or of a part of it; its options count from here on."""
        if b"=" in bare or (b" " in bare and not self._is_first):
            return False
        within = self._program.name if self._program is not None else ""
        found = program_options(bare.split(b" ", 1)[0][-_MAX_NAME_BYTES:], within)
        anywhere = self._is_first or self._depth > 0 or (self._program is not None and self._program.wraps)
        self._is_first = False
        if found is None or not (anywhere or found.name.startswith(f"{within}-")):
            return False
        self._program, self._left = found, found.operands
        return True

    def _option(self, argument: bytes, bare: bytes) -> bytes:
        """Show an option, which may hold its value or wait for it."""
        program = self._program
        option, rest = _known(program, bare) if program is not None else (b"", b"")
        if program is not None and option in program.counted:
            self._left = program.counted[option]
        elif program is not None and option:
            sign = program.options[option]
            if rest:
                self._look_for_the_end(argument[argument.rindex(rest) :])
                return argument[: argument.rindex(rest)] + _behind(rest, sign)
            if sign != "*":
                self._awaited_by, self._sign = option, sign or "*"
        else:
            if b"=" not in bare and b":" not in bare and self._names.awaits(bare):
                self._awaited_by, self._sign = bare, ""
            return self._text(argument)
        return argument

    def _value(self, argument: bytes, bare: bytes) -> bytes:
        """Show what an option has waited for."""
        option, self._awaited_by = self._awaited_by or b"", None
        self._look_for_the_end(argument)
        if self._sign and (shown := _behind(argument, self._sign)) != argument:
            return shown
        return MASK if not self._sign and self._names.hides(option.lstrip(b"-"), bare) else self._text(argument)

    def _look_for_the_end(self, value: bytes) -> None:
        """Hide all arguments from here on if *value* begins with quotes that do not end."""
        closed = value.rstrip(b";)&|")
        if self._depth > 0 and value[:1] in _QUOTES and (len(closed) == 1 or closed[-1:] != value[:1]):
            self._left = 1

    def _operand(self, argument: bytes, bare: bytes) -> bytes:
        program = self._program
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                return MASK
        if program is not None:
            head, colon, _ = argument.partition(b":")
            if colon and head in program.options:
                return head + colon + MASK
            if program.has_accounts and (found := _ACCOUNT.match(argument)):
                return found[1] + MASK + argument[found.end() :]
            if program.takes_names and b"=" not in bare and self._names.awaits(bare):
                self._awaited_by, self._sign = bare, ""
        if self._depth == 0 and bare.endswith(b":") and self._names.awaits(bare[:-1]):
            self._awaited_by, self._sign = bare[:-1], ""
        return self._text(argument)

    def _text(self, argument: bytes) -> bytes:
        if self._depth == 0 and not _SHORT.match(argument):
            whole = None if self._is_script else hide_whole(argument, self._names)
            return whole or hide_text(argument, self._names)
        if argument[:1] in _QUOTES and len(argument) > 1 and self._depth < _MAX_DEPTH:
            return argument[:1] + _words(argument[1:-1], self._names, self._depth + 1) + argument[-1:]
        return argument


def _words(text: bytes, names: SecretNames, depth: int) -> bytes:
    """Show the words of a text as arguments."""
    line = CommandLine(names, depth=depth)
    return _WORD.sub(lambda found: line.show(found[0]), text)


def _known(program: ProgramOptions, bare: bytes) -> tuple[bytes, bytes]:
    """Return the program's own option in an argument, and what follows it there; both empty if there is none."""
    name, _, value = bare.partition(b"=")
    if name in program.options:
        return name, value
    for option, sign in program.options.items():
        if sign == "*" and bare.startswith(option):
            return option, bare[len(option) :]
    rest = bare[1:].lstrip(program.flags)
    letter = b"-" + rest[:1]
    if letter in program.counted or program.options.get(letter, "+") != "+":
        return letter, rest[1:]
    return b"", b""


def _behind(value: bytes, sign: str) -> bytes:
    """Hide what is behind the first *sign*; for none of its own, all of *value*."""
    if sign in {"", "*", "+"}:
        return MASK
    head, found, secret = value.partition(sign.encode())
    return head + found + MASK if secret else value
