"""
Core file names: ``core_pattern`` compiled to match names against.

Source: core(5), "Naming of core dump files"; Documentation/admin-guide/sysctl/kernel.rst; fs/coredump.c.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from collector.host.files import Host
from collector.model.text import parse_number

# What each specifier prints. cn_esc_printf replaces "/" by "!", so a value never spans two path components; lengths are
# the kernel's (TASK_COMM_LEN, __NEW_UTS_LEN, NAME_MAX) and bound the matching; numbers have 32 bits, except for the
# limit (%c), and ten digits of seconds last until 2286.
NUMBER = r"[0-9]{1,10}"
SPECIFIERS = {
    "p": ("pid", NUMBER), "P": ("global_pid", NUMBER), "i": ("tid", NUMBER), "I": ("global_tid", NUMBER),
    "u": ("uid", NUMBER), "g": ("gid", NUMBER), "d": ("dump_mode", NUMBER), "s": ("signal", NUMBER),
    "t": ("time", NUMBER), "c": ("limit", r"[0-9]{1,20}"), "C": ("cpu", NUMBER), "F": ("pidfd", NUMBER),
    "e": ("comm", r"[^/]{0,15}"), "f": ("file", r"[^/]{0,255}"), "E": ("exe", r"[^/]{0,255}"),
    "h": ("host", r"[^/]{0,64}"),
}  # fmt: skip


# The numbers by which a name names a process, its user or its thread, and its signal.
NUMBERS = ("global_pid", "pid", "global_tid", "uid", "signal")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreName:
    """
    What a core's name says; anybody who can create files in the directory can forge it.

    *pid* and *thread* are numbers of the initial PID namespace, *inner_pid* is one of the process's own.
    """

    pid: int | None = None
    inner_pid: int | None = None
    thread: int | None = None
    uid: int | None = None
    signal: int | None = None
    at_s: int | None = None
    comm: str | None = None
    exe: str | None = None


class CorePattern:
    """One ``core_pattern``, compiled."""

    def __init__(self, text: str, *, uses_pid: bool, host_name: str = "") -> None:
        """
        Compile *text*.

        Args:
            text: The pattern.
            uses_pid: ``core_uses_pid``, which appends ``.PID`` if there is no ``%p``.
            host_name: This machine's; another one in the name is that of a UTS namespace.
        """
        self.text = text
        self._forms: tuple[_Form, ...] = ()
        if text and text[0] not in "|@":  # for a pipe or a socket the kernel creates no file
            if uses_pid and not re.search(r"(?<!%)(?:%%)*%p", text):
                text += ".%p"
            forms = [text if text.startswith("/") else text.rpartition("/")[2]]
            # A relative pattern applies in any directory; an absolute one may be watched through a symlink.
            forms += [text.rpartition("/")[2]] if text.startswith("/") else []
            names = [host_name, None] if host_name and "%h" in text else [None]
            self._forms = tuple(_Form(form, name) for form in forms for name in names)

    def match(self, path: str) -> CoreName | None:
        """
        Return what *path* says; ``None`` if the pattern does not produce such a name.

        A name that can be read as naming two processes names none: `core.%e.%p.%h` of a host called ``10.2.3.17``.
        """
        name = path.rpartition("/")[2]
        ambiguous = None
        for form in self._forms:
            if found := form.match(path if form.text.startswith("/") else name):
                if form.is_unambiguous(found):
                    return _read(found.groupdict())
                ambiguous = ambiguous or found
        if ambiguous is None:
            return None
        return CoreName(at_s=_read(ambiguous.groupdict()).at_s)


def core_pattern(host: Host) -> CorePattern:
    """Return the pattern in force; one that matches nothing if it cannot be read."""
    try:
        text = host.read("/proc/sys/kernel/core_pattern", limit=4096)
        uses_pid = host.read("/proc/sys/kernel/core_uses_pid", limit=16).strip() != b"0"
    except OSError:
        return _cached("", uses_pid=False)
    text_ = text.decode(errors="surrogateescape").rstrip("\n")
    return _cached(text_, uses_pid=uses_pid, host_name=os.uname().nodename)


_cached = functools.lru_cache(maxsize=8)(CorePattern)


class _Form:
    """One form of the pattern as a regular expression, with ``%h`` as any name or as a certain one."""

    def __init__(self, text: str, host_name: str | None) -> None:
        self.text = text
        self._host_name = host_name
        self.match = _compile(text, host_name).fullmatch

    def is_unambiguous(self, found: re.Match[str]) -> bool:
        """Return whether no other reading of the same name has another number in place of those that count."""
        known = found.groupdict()
        others = ((name, known[name]) for name in NUMBERS if known.get(name))
        return not any(_other(self.text, self._host_name, name, value).fullmatch(found[0]) for name, value in others)


def _compile(text: str, host_name: str | None, forms: Mapping[str, str] = MappingProxyType({})) -> re.Pattern[str]:
    """Translate the specifiers; text fields are greedy, so that digits at the end match the kernel's numbers."""
    parts: list[str] = []
    seen: set[str] = set()
    for token in re.findall(r"%.|%$|[^%]+", text, re.DOTALL):
        if token == "%%":  # noqa: S105
            parts.append("%")
        elif token[0] != "%":
            parts.append(re.escape(token))
        elif token == "%h" and host_name is not None:  # noqa: S105
            parts.append(re.escape(host_name))
        elif token[1:] in SPECIFIERS:
            name, form = SPECIFIERS[token[1:]]
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{forms.get(name, form)})")
            seen.add(name)
        # The kernel drops unknown specifiers, and a single % at the end.
    return re.compile("".join(parts), re.DOTALL)


@functools.lru_cache(maxsize=64)
def _other(text: str, host_name: str | None, name: str, value: str) -> re.Pattern[str]:
    """Return the pattern with any number but *value* in place of *name*."""
    size = len(value)
    longer = rf"|[0-9]{{{size + 1},10}}" if size < 10 else ""
    shorter = rf"|[0-9]{{1,{size - 1}}}" if size > 1 else ""
    return _compile(text, host_name, {name: rf"(?:(?!{value})[0-9]{{{size}}}{longer}{shorter})"})


def _read(fields: Mapping[str, str | None]) -> CoreName:
    """Convert the matched text."""
    exe = fields.get("exe") or fields.get("file")
    return CoreName(
        pid=parse_number(fields.get("global_pid")),
        inner_pid=parse_number(fields.get("pid")),
        thread=parse_number(fields.get("global_tid")),
        uid=parse_number(fields.get("uid")),
        signal=parse_number(fields.get("signal")),
        at_s=parse_number(fields.get("time")),
        comm=fields.get("comm") or None,
        exe=exe.replace("!", "/") if exe else None,
    )
