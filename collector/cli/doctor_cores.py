"""Where the kernel's cores go, as far as ``core_pattern`` tells, and whether a trigger would find them there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import is_collectors
from collector.host.core_pattern_owner import handler_of, pattern_in_force
from collector.host.coredump_conf import EXTERNAL, storage
from collector.host.files import Host
from collector.pipeline.generation import Generation
from collector.triggers.core_files import CoreFiles

ABOUT = "cores"
CORE_NAME = "core.%e.%P.%s.%u.%t"
SYSTEMD = "systemd-coredump"
SUID_DUMPABLE = "/proc/sys/fs/suid_dumpable"  # fs/coredump.c: then a core needs an absolute path or a pipe
HANDLERS = {
    SYSTEMD: "/var/lib/systemd/coredump/core.engine.0.0.1.1.zst",
    "apport": "/var/crash/_usr_bin_engine.0.crash",
    "abrt-hook-ccpp": "/var/spool/abrt/ccpp-1/coredump",
}
"""Programs that take cores by a pipe, and a file as each of them leaves it."""

# What may tell one core from the next in a file's name. Source: core(5).
_OWN_NAME = re.compile(r"(?:%%|[^%]|%[^pPiIt])*%[pPiIt]")
_VARIES = re.compile(r"%[^%]")
_EXAMPLE = {"e": "engine", "f": "engine", "E": "!usr!bin!engine", "h": "host"}


def cores_go_to(host: Host) -> str | None:
    """Return the path of a core as this machine leaves it; ``None`` if that is not known, or none is left."""
    pattern = pattern_in_force(host)
    if pattern.startswith("/"):
        return _example_of(pattern, host)
    program = handler_of(pattern) or ""
    name = os.path.basename(program)
    is_there = pattern.startswith("|") and os.path.exists(host.path(program))
    keeps = name in HANDLERS and (name != SYSTEMD or storage(host) == EXTERNAL)
    return HANDLERS[name] if is_there and keeps else None


def found_by(generation: Generation, host: Host) -> list[str]:
    """Return the `core_files` triggers that would find a core where it goes on this machine."""
    example = cores_go_to(host)
    watching = _watching(generation)
    return [] if example is None else [one for one, options in watching.items() if _watches(options, example, host)]


def _watching(generation: Generation) -> dict[str, CoreFiles]:
    return {one.id: one.trigger for one in generation.triggers if isinstance(one.trigger, CoreFiles)}


def cores(generation: Generation, host: Host | None = None) -> Iterator[Check]:
    """Yield what becomes of a core on this machine."""
    host = host or Host()
    pattern = pattern_in_force(host)
    watching = _watching(generation)
    if is_collectors(generation, pattern):
        yield Check("ok", ABOUT, "the kernel writes no core files: it hands crashes to the collector")
    elif pattern.startswith("|"):
        yield _piped(handler_of(pattern) or "", watching, host)
    elif pattern.startswith("@"):
        said = f"cores are sent to the socket {handler_of(pattern)}; {_watched(watching)}"
        hint = f"its server must leave ELF cores there; otherwise {_advice(watching, host)}"
        yield Check("warning", ABOUT, said, hint)
    elif not pattern.startswith("/"):
        said = "core_pattern is empty: the kernel writes no core"
        if pattern:
            said = f"core_pattern is {pattern}: cores land wherever the crashed process was, so none can be watched for"
            if host.read(SUID_DUMPABLE, limit=16).strip() == b"2":
                said += "; with fs.suid_dumpable=2 those of set-id programs are not written at all"
        yield Check("warning", ABOUT, said, _advice(watching, host))
    else:
        yield _written(pattern, watching, host)


def _piped(program: str, watching: dict[str, CoreFiles], host: Host) -> Check:
    """Return what is known of the program that takes the cores."""
    name = os.path.basename(program)
    said = f"cores are piped to {program}"
    if not os.path.exists(host.path(program)):
        return Check("warning", ABOUT, f"{said}, which does not exist: all are lost", _advice(watching, host))
    if not os.access(host.path(program), os.X_OK):
        return Check("warning", ABOUT, f"{said}, which is not executable: all are lost", f"chmod 755 {program}")
    if name not in HANDLERS:
        hint = f"it must leave ELF cores where the daemon watches; otherwise {_advice(watching, host)}"
        return Check("warning", ABOUT, f"{said}; {_watched(watching)}", hint)
    if name == SYSTEMD and (kept := storage(host)) != EXTERNAL:
        said = f"{said}, which leaves no files: Storage={kept} in coredump.conf"
        return Check("warning", ABOUT, said, "write Storage=external in /etc/systemd/coredump.conf")
    left = HANDLERS[name]
    return _not_found(f"{said}, which leaves files like {left}", left, watching, host) or _ok(
        said, left, watching, host
    )


def _written(pattern: str, watching: dict[str, CoreFiles], host: Host) -> Check:
    """Return what is wrong with a pattern for files, in the order in which it would be mended."""
    example = _example_of(pattern, host)
    directory, said = os.path.dirname(pattern), f"core_pattern is {pattern}"
    if _VARIES.search(directory):
        said = f"{said}: its directory depends on the process, and the kernel creates none: most cores are lost"
        fixed = directory[: directory.index("%")].rpartition("/")[0] or "/var/crash"
        return Check("warning", ABOUT, said, f"sysctl kernel.core_pattern={fixed}/{CORE_NAME}")
    lost = _not_found(f"{said}: files like {example}", example, watching, host)
    if lost is not None:
        return lost
    directory = os.path.dirname(example)
    try:
        mode = os.stat(host.path(directory)).st_mode
    except OSError:
        said = f"{said}, and {directory} does not exist: the kernel writes no core"
        return Check("warning", ABOUT, said, f"mkdir -m 1733 {directory}")
    if mode & 0o003 != 0o003:
        said = f"{said}, and not everybody may write to {directory}: other users' cores are lost"
        return Check("warning", ABOUT, said, f"chmod 1733 {directory}")
    if not _uses_pid(host) and not _OWN_NAME.match(pattern):
        said = f"{said} (core_uses_pid is 0): a core overwrites the one before it"
        return Check("warning", ABOUT, said, f"sysctl kernel.core_pattern={directory}/{CORE_NAME}")
    return _ok(said, example, watching, host)


def _example_of(pattern: str, host: Host) -> str:
    """Return a file as the kernel writes it by *pattern*."""
    example = re.sub(r"%(.?)", lambda found: "%" if found[1] == "%" else _EXAMPLE.get(found[1], "1"), pattern)
    return f"{example}.1" if _uses_pid(host) and "%p" not in pattern else example


def _uses_pid(host: Host) -> bool:
    return host.read("/proc/sys/kernel/core_uses_pid", limit=16).strip() != b"0"


def _not_found(said: str, example: str, watching: dict[str, CoreFiles], host: Host) -> Check | None:
    """Return why no trigger finds a core like *example*; ``None`` if one does."""
    if any(_watches(trigger, example, host) for trigger in watching.values()):
        return None
    directory, name = os.path.split(example)
    below = [trigger for trigger in watching.values() if _reaches(trigger, directory, host)]
    if below:
        globs = ", ".join(glob for trigger in below for glob in trigger.match)
        said = f"{said}; the daemon watches {directory}, but for {globs}, less what is excluded"
        return Check("warning", ABOUT, said, f"let `match` of the core_files trigger include names like {name}")
    handled = example in HANDLERS.values()
    parent = os.path.dirname(directory) if name == "coredump" else directory
    more = ", recursive: 1, match: [coredump]" if name == "coredump" else ""
    hint = f"a core_files trigger with paths: [{parent}]{more}" if handled else _advice(watching, host)
    return Check("warning", ABOUT, f"{said}; {_watched(watching)}", hint)


def _ok(said: str, example: str, watching: dict[str, CoreFiles], host: Host) -> Check:
    by = [trigger for trigger, options in watching.items() if _watches(options, example, host)]
    return Check("ok", ABOUT, f"{said}; found by {', '.join(by)}")


def _watches(trigger: CoreFiles, path: str, host: Host) -> bool:
    directory, name = os.path.split(path)
    return trigger.files.takes(name) and _reaches(trigger, directory, host)


def _reaches(trigger: CoreFiles, directory: str, host: Host) -> bool:
    """Return whether the trigger watches *directory*, by whatever name."""
    real = tuple(os.path.realpath(host.path(path)) for path in trigger.paths)
    return msgspec.structs.replace(trigger.files, paths=real).reaches(os.path.realpath(host.path(directory)))


def _watched(watching: dict[str, Any]) -> str:
    paths = [path for trigger in watching.values() for path in trigger.paths]
    return f"the daemon watches {', '.join(paths) or 'nothing'}"


def _advice(watching: dict[str, CoreFiles], host: Host) -> str:
    """Return how to get cores to where the daemon looks."""
    handled = {os.path.dirname(left) for left in HANDLERS.values()} - {"/var/crash"}
    paths = (path.rstrip("/") for trigger in watching.values() for path in trigger.paths)
    plain = [path for path in paths if not set(path) & set("*?[") and path not in handled]
    if not plain:
        return "name a directory for cores in the paths of a core_files trigger"
    make = "" if os.path.isdir(host.path(plain[0])) else f"mkdir -m 1733 {plain[0]} && "
    keep = "/opt/collector/examples/sysctl.conf keeps" if plain[0] == "/var/crash" else "a line in /etc/sysctl.d keeps"
    return f"{make}sysctl kernel.core_pattern={plain[0]}/{CORE_NAME}; {keep} it across reboots"
