"""
Core file names: ``core_pattern`` compiled to match names against.

Source: core(5), "Naming of core dump files"; Documentation/admin-guide/sysctl/kernel.rst; fs/coredump.c.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from collector.host.files import Host

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreName:
    """What a core's name says; anybody who can create files in the directory can forge it."""

    pid: int | None = None
    uid: int | None = None
    signal: int | None = None
    at_s: int | None = None
    comm: str | None = None
    exe: str | None = None


class CorePattern:
    """One ``core_pattern``, compiled."""

    def __init__(self, text: str, *, uses_pid: bool) -> None:
        """Compile *text*; *uses_pid* is ``core_uses_pid``, which appends ``.PID`` if there is no ``%p``."""
        self.text = text
        self._full: re.Pattern[str] | None = None
        if text and text[0] not in "|@":  # for a pipe or a socket the kernel creates no file
            if uses_pid and not re.search(r"(?<!%)(?:%%)*%p", text):
                text += ".%p"
            self._full = _compile(text if text.startswith("/") else text.rpartition("/")[2])
            self._name = _compile(text.rpartition("/")[2])

    def match(self, path: str) -> CoreName | None:
        """Return what *path* says; ``None`` if the pattern does not produce such a name."""
        if self._full is None:
            return None
        # A relative pattern applies in any directory; an absolute one may be watched through a symlink.
        found = self._full.fullmatch(path) or self._name.fullmatch(path.rpartition("/")[2])
        return _read(found.groupdict()) if found else None


def core_pattern(host: Host) -> CorePattern:
    """Return the pattern in force; one that matches nothing if it cannot be read."""
    try:
        text = host.read("/proc/sys/kernel/core_pattern", limit=4096)
        uses_pid = host.read("/proc/sys/kernel/core_uses_pid", limit=16).strip() != b"0"
    except OSError:
        return _cached("", uses_pid=False)
    return _cached(text.decode(errors="surrogateescape").rstrip("\n"), uses_pid=uses_pid)


_cached = functools.lru_cache(maxsize=8)(CorePattern)


def _compile(text: str) -> re.Pattern[str]:
    """Translate the specifiers; text fields are greedy, so that digits at the end match the kernel's numbers."""
    parts: list[str] = []
    seen: set[str] = set()
    for token in re.findall(r"%.|%$|[^%]+", text, re.DOTALL):
        if token == "%%":  # noqa: S105
            parts.append("%")
        elif token[0] != "%":
            parts.append(re.escape(token))
        elif token[1:] in SPECIFIERS:
            name, form = SPECIFIERS[token[1:]]
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{form})")
            seen.add(name)
        # The kernel drops unknown specifiers, and a single % at the end.
    return re.compile("".join(parts), re.DOTALL)


def _read(fields: dict[str, str]) -> CoreName:
    """Convert the matched text, preferring the PID of the initial namespace."""
    pid = fields.get("global_pid") or fields.get("pid")
    exe = fields.get("exe") or fields.get("file")
    return CoreName(
        pid=int(pid) if pid else None,
        uid=int(fields["uid"]) if "uid" in fields else None,
        signal=int(fields["signal"]) if "signal" in fields else None,
        at_s=int(fields["time"]) if "time" in fields else None,
        comm=fields.get("comm") or None,
        exe=exe.replace("!", "/") if exe else None,
    )
