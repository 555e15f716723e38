"""Files beside the main one: which of them are read, and which only look as if they were."""

from __future__ import annotations

import os
import re

from collector.model.diagnostics import Diagnostic, Mark, Severity
from collector.model.errors import ConfigError

SYSTEM_PATH = "/etc/collector/collector.yaml"
DROP_INS = "conf.d"
ENDINGS = (".yaml", ".yml")
MEANT = (*ENDINGS, ".conf", ".json")
"""Endings, in lower case, of files that somebody expects to be read."""
# What editors, package managers and people leave, who know that it is not read: dpkg(1), rpm(8), ucf(1).
_LEFT_BEHIND = re.compile(
    r"(\..*|.*~|#.*#|README.*|.*\.(bak|orig|old|save|sav|swp|swo|tmp|disabled|off|md|txt"
    r"|dpkg-[a-z]+|rpm(new|save|orig)|ucf-[a-z]+))",
    re.IGNORECASE | re.DOTALL,
)


def main_file(directory: str) -> str:
    """Return the main file that belongs to a directory: in it, or, if it is one of drop-ins, beside it."""
    path = os.path.abspath(directory)
    above = os.path.dirname(path) if os.path.basename(path) == DROP_INS else path
    return os.path.join(above, os.path.basename(SYSTEM_PATH))


def drop_ins(path: str) -> tuple[str, ...]:
    """
    Return the drop-ins that belong to *path*, in lexical order.

    Raises:
        ConfigError: If their directory cannot be read.
    """
    return tuple(name for name in _beside(path) if name.endswith(ENDINGS))


def not_read(path: str | None) -> list[Diagnostic]:
    """Return what is not read although it stands where, or has a name as if, it should be; ``None``: the system's."""
    main = path or SYSTEM_PATH
    found = [_unread(name) for name in _beside(main) if not name.endswith(ENDINGS)]
    namesake = SYSTEM_PATH.removesuffix(".yaml") + ".yml"
    if path in {None, SYSTEM_PATH} and os.path.exists(namesake):
        found.append(_warning(namesake, f"call it {SYSTEM_PATH}"))
    for directory in (f"{main}.d", os.path.join(os.path.dirname(main), "collector.d")):
        if os.path.isdir(directory):
            found.append(_warning(directory, f"move what is in it into {DROP_INS} beside {os.path.basename(main)}"))
    return [diagnostic for diagnostic in found if diagnostic is not None]


def _unread(name: str) -> Diagnostic | None:
    """Return what to say of a file or directory in ``conf.d`` that is not a drop-in; ``None`` if nothing is needed."""
    if name.lower().endswith(MEANT):
        return _warning(name, "call it NAME.yaml")
    if _LEFT_BEHIND.fullmatch(os.path.basename(name)):
        return None
    hint = f"move its files into {DROP_INS} itself" if os.path.isdir(name) else "call it NAME.yaml, if it should be"
    return Diagnostic(mark=Mark(name), message="this is not read", hint=hint, severity=Severity.NOTE)


def _warning(name: str, hint: str) -> Diagnostic:
    what = "directory" if os.path.isdir(name) else "file"
    return Diagnostic(mark=Mark(name), message=f"this {what} is not read", hint=hint, severity=Severity.WARNING)


def _beside(path: str) -> list[str]:
    """Return what is in the directory of drop-ins, without hidden files."""
    directory = os.path.join(os.path.dirname(path), DROP_INS)
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise ConfigError((cannot_read(directory, exc),)) from exc
    return [os.path.join(directory, name) for name in names if not name.startswith(".")]


def cannot_read(path: str, exc: OSError | ValueError) -> Diagnostic:
    """Return the diagnostic for a file or a directory that the kernel does not let us read."""
    reason = exc.strerror if isinstance(exc, OSError) else str(exc)
    return Diagnostic(mark=Mark(path), message=f"cannot be read: {reason}", hint="name a readable file")
