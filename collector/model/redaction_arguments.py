"""Hides secrets in command lines: what programs and options in them say about the argument after them."""

from __future__ import annotations

import re

from collector.model.redaction_forms import MASK, hide_forms
from collector.model.redaction_names import SecretNames
from collector.model.redaction_options import ProgramOptions, program_options
from collector.model.redaction_pairs import hide_pairs, hide_whole

_SHORT = re.compile(rb"[\w./+-]{0,7}\Z")  # most arguments: no name with a value, and shorter than every known token
_BLANK = re.compile(rb"\s")
_WORD = re.compile(rb"""(?s)(?:[^\s"'\\]++|\\.|"(?:[^"\\]++|\\.){0,8192}"|'[^']*+'|["'\\]){1,8192}""")
_SCRIPT = re.compile(rb"-[a-z]*c\Z")  # sh -c, bash -lc
_ACCOUNT = re.compile(rb"((?:userid=)?[^/@=]{1,64}/)([^@]++)")  # sqlplus user/password@database
_AROUND = b"\"'`\\$(){};"
_SUBSTITUTION = re.compile(rb"""[\w.\[\]-]*=["']?(?:\$\(|`|[<>]\()""")  # x=$(mysql ...
_ASSIGNED = re.compile(rb"""(?s)((?:--(?:set)?env=)?[\w.\[\]-]++=)(["']?)(.*)\2""")  # X="$(mysql ...)"
_OPTIONS_OF = re.compile(rb"(?i)(?:-[De])?([a-z]\w*?)_?(?:extra_)?(?:opts?|options|args|arguments|flags|params)\Z")
_SETTERS = frozenset({b"--env", b"--setenv"})
_ENDS_OF_OPTIONS = frozenset({b"S", b"s", b"T", b"t"})
_SIGNS = frozenset({b"=", b":", b":=", b"=>", b"=="})  # password = ..., in three arguments
_DSN = re.compile(rb"((?:\A|,)p=)[^,]++")
# Operands that are the name of a secret, and of nothing else that a program may be told about.
_SECRET_OPERAND = re.compile(
    rb"(?i)(?!(?:add|change|check|create|forgot|get|new|reset|set|update)[._-])(?:[\w.-]{1,64}[._-])?"
    rb"(?:password|passphrase|passcode|pass|pwd|psk|authtoken|(?<=[._-])token|client[._-]?secret"
    rb"|(?:private|secret|access|api|preshared|shared|auth|encryption)[._-]?key)\Z"
)
_ENDS_OF_NAMES = frozenset(b"%c" % sign for sign in b":=dDeEkKnNsStTyY")  # of those, and of what holds a value
# What is done to a password, or is said of it.
_NOT_A_SECRET = re.compile(
    rb"(?i)(?:add|change|check|create|delete|disable|edit|enable|expire|export|forget|generate|get|help|import|info|init"
    rb"|insert|inspect|issue|list|ls|new|policy|print|prompt|put|refresh|remove|renew|reset|revoke|rm|rotate|set|show|stdin"
    rb"|update|verify)\Z"
)
# Their operands are patterns, packages, files or prose.
_TALKERS = frozenset(
    b"ack ag apropos apt apt-cache apt-get awk brew cat cd chmod chown cp diff dnf dpkg echo egrep emacs fgrep "
    b"file find fzf git grep head less locate logger ls make man mkdir more mv nano notify-send pacman pip pip3 printf "
    b"pytest rg rm sed sort stat systemctl tail tar tee touch vi vim wall wc whatis which yum zypper".split()
)
_QUOTES = frozenset({b'"', b"'"})
_MAX_NAME_BYTES = 255  # NAME_MAX; what is known of a name is remembered
_MAX_DEPTH = 3  # a command in quotes in a command in quotes


def hide_text(text: bytes, names: SecretNames, variable: bytes = b"") -> bytes:
    """
    Hide secrets in a text which may hold options or a whole command line: a process's title, the value of a *variable*.

    ``CURL_OPTS`` and the like hold options of the program in their name.
    """
    program = _program_of(variable) if variable else None
    if program is None and _SHORT.match(text):
        return text
    if program is not None or _BLANK.search(text):
        text = _words(text, names, 1, program)
    return hide_pairs(hide_forms(text), names)


class CommandLine:
    """
    Takes a command line's arguments one by one, and tells how each is shown.

    Args:
        depth: 0 for a real command line; more within an argument, where any word may be the name of a program.
        program: The one whose arguments these are, if they do not begin with its name.
    """

    def __init__(self, names: SecretNames, *, depth: int = 0, program: ProgramOptions | None = None) -> None:
        self._names = names
        self._depth = depth
        self._program = program
        self._is_talker = False
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
        bare = argument.strip(_AROUND)
        if found := _SUBSTITUTION.match(bare):
            bare = bare[found.end() :].strip(_AROUND)
        return self._show(argument, bare)

    def _show(self, argument: bytes, bare: bytes) -> bytes:
        if self._awaited_by is not None and self._is_between(bare):
            return argument
        if self._awaited_by is not None and not bare.startswith(b"--"):
            return self._value(argument, bare)
        self._awaited_by = None
        if bare.startswith(b"-"):
            return self._option(argument, bare)
        if self._starts(bare):
            return self._text(argument)
        return self._operand(argument, bare)

    def _is_between(self, bare: bytes) -> bool:
        """Whether the secret comes later: password = S, or iscsiadm -n node.session.auth.password -v S."""
        named = (
            self._program is not None and self._program.takes_names and not (self._awaited_by or b"").startswith(b"-")
        )
        return bare in _SIGNS or (named and len(bare) == 2 and bare.startswith(b"-"))

    def _starts(self, bare: bytes) -> bool:
        """Whether this is the name of a program, or of a part of it; its options count from here on."""
        if b"=" in bare or (b" " in bare and not self._is_first):
            return False
        within = self._program.name if self._program is not None else ""
        name = bare.split(b" ", 1)[0][-_MAX_NAME_BYTES:]
        found = program_options(name, within)
        if self._is_first:
            self._is_talker = name.rpartition(b"/")[2] in _TALKERS
        anywhere = self._is_first or self._depth > 0 or (self._program is not None and self._program.wraps)
        self._is_first = False
        if found is None or not (anywhere or found.name.startswith(f"{within}-")):
            return False
        self._program, self._left = found, found.operands
        return True

    def _option(self, argument: bytes, bare: bytes) -> bytes:
        """Show an option, which may hold its value or wait for it."""
        program = self._program
        if program is not None and program.knows_shares:
            self._left = None
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
            name = bare.removesuffix(b"=")
            if b"=" not in name and b":" not in name and self._names.awaits(name):
                self._awaited_by, self._sign = name, ""
            return self._text(argument)
        return argument

    def _value(self, argument: bytes, bare: bytes) -> bytes:
        """Show what an option has waited for."""
        option, self._awaited_by = self._awaited_by or b"", None
        self._look_for_the_end(argument)
        if self._sign and (shown := _behind(argument, self._sign)) != argument:
            return shown
        if not option.startswith(b"-") and _NOT_A_SECRET.match(bare):
            return self._operand(argument, bare)
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
            if program.knows_shares and argument.startswith(b"//"):
                self._left = 1
            head, colon, _ = argument.partition(b":")
            if colon and head in program.options:
                return head + colon + MASK
            if program.has_accounts and (found := _ACCOUNT.match(argument)):
                return found[1] + MASK + argument[found.end() :]
            if program.takes_names and b"=" not in bare and bare[-1:] != b":" and self._names.awaits(bare):
                self._awaited_by, self._sign = bare, ""
            if program.operand_sign and (shown := _behind(argument, program.operand_sign)) != argument:
                return shown
            if program.has_dsn:
                argument = _DSN.sub(rb"\1" + MASK, argument)
        if self._depth == 0 and not self._is_talker:
            self._look_for_a_name(bare)
        return self._text(argument)

    def _look_for_a_name(self, bare: bytes) -> None:
        """Await a secret if this is the name of one: ``password S``, ``password: S``, ``password= S``."""
        if bare[-1:] not in _ENDS_OF_NAMES:
            return
        wraps = self._program is not None and self._program.wraps
        name = bare.removesuffix(b":") if bare.endswith(b":") or wraps else bare.removesuffix(b"=")
        strong = not wraps and _SECRET_OPERAND.match(name) is not None
        if (name != bare or strong) and b"=" not in name and self._names.awaits(name):
            self._awaited_by, self._sign = name, ""

    def _text(self, argument: bytes) -> bytes:
        if self._depth == 0 and not _SHORT.match(argument):
            whole = None if self._is_script else hide_whole(argument, self._names)
            if whole is None and b"=" in argument:
                whole = self._assigned(argument)
            return whole or hide_text(argument, self._names)
        if argument[:1] in _QUOTES and len(argument) > 1 and self._depth < _MAX_DEPTH:
            return argument[:1] + _words(argument[1:-1], self._names, self._depth + 1) + argument[-1:]
        return self._assigned(argument) or argument

    def _assigned(self, argument: bytes) -> bytes:
        """Show ``X="$(mysql ...)"`` and ``CURL_OPTS=...``; nothing if the value is neither in quotes nor options."""
        name, equals, rest = argument.partition(b"=")
        if name in _SETTERS:
            name = rest.partition(b"=")[0]
        program = _program_of(name) if equals else None
        if not equals or self._depth >= _MAX_DEPTH or (program is None and self._depth == 0):
            return b""
        found = _ASSIGNED.fullmatch(argument)
        if found is None or (program is None and not found[2]):
            return b""
        if self._depth > 0 and not found[2]:  # joined with blanks: what comes next may belong to it
            self._program, self._left = program, None
            return found[1] + self._show(found[3], found[3])
        return found[1] + found[2] + _words(found[3], self._names, self._depth + 1, program) + found[2]


def _program_of(variable: bytes) -> ProgramOptions | None:
    """Return the program whose options ``CURL_OPTS`` and the like hold."""
    bare = variable[-_MAX_NAME_BYTES:].rstrip(b"0123456789")
    if bare[-1:] not in _ENDS_OF_OPTIONS or not (found := _OPTIONS_OF.match(bare)):
        return None
    return program_options(found[1].replace(b"_", b"-")) or program_options(found[1].rpartition(b"_")[2])


def _words(text: bytes, names: SecretNames, depth: int, program: ProgramOptions | None = None) -> bytes:
    """Show the words of a text as arguments."""
    line = CommandLine(names, depth=depth, program=program)
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
