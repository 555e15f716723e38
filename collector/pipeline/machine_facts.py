"""What a configuration meets on this machine: read once, so that `harm` can judge it without looking again."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from collector.collectors.shm.listing import ROOT, walk
from collector.config.directories import effective_archive_path, effective_runtime_directory
from collector.config.nodes import Path
from collector.host import filesystem
from collector.host.read_errors import Unreads
from collector.model.pressure import Sample
from collector.model.segments import matches
from collector.pipeline.compile import Plan
from collector.pressure.sampler import Sampler


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """
    A directory of ours, which may not exist yet: then *parent* is the nearest one that does.

    *problem* says why nothing can be written there; ``None`` if all is well.
    """

    path: str
    parent: str
    kind: str
    in_memory: bool
    free_bytes: int
    total_bytes: int
    problem: str | None


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The machine, as far as it matters to a configuration.

    Args:
        sample: Its memory.
        archive: Where incidents would go.
        runtime: Where sockets would be.
        unmatched: The globs that match nothing now, by their place in the file.
        unsafe_files: Configuration files that others may change, and why.
    """

    sample: Sample
    archive: Place
    runtime: Place
    unmatched: dict[Path, str]
    unsafe_files: dict[str, str]


def survey(plan: Plan[Any], *, is_root: bool, environ: Mapping[str, str]) -> Surroundings:
    """Look at what *plan* would meet, for this user."""
    config = plan.loaded.config
    return Surroundings(
        sample=Sampler().sample(),
        archive=place(effective_archive_path(config, is_root=is_root, environ=environ)),
        runtime=place(effective_runtime_directory(config, is_root=is_root, environ=environ)),
        unmatched=dict(_unmatched(plan)),
        unsafe_files=dict(_unsafe(plan.loaded.files)),
    )


def place(path: str) -> Place:
    """Look at a directory, or at the nearest one above it that exists."""
    parent = path
    while not os.path.isdir(parent) and parent != "/" and not os.path.lexists(parent):
        parent = os.path.dirname(parent.rstrip("/")) or "/"
    problem = None
    if not os.path.isdir(parent):
        problem, parent = f"{parent} is not a directory", os.path.dirname(parent) or "/"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"{parent} is not writable"
    fd = os.open(parent, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        space = os.fstatvfs(fd)
        return Place(
            path=path,
            parent=parent,
            kind=filesystem.kind(fd),
            in_memory=filesystem.is_memory(fd),
            free_bytes=space.f_bavail * space.f_frsize,
            total_bytes=space.f_blocks * space.f_frsize,
            problem=problem,
        )
    finally:
        os.close(fd)


def _unmatched(plan: Plan[Any]) -> Iterator[tuple[Path, str]]:
    """Yield the globs that match nothing: what is named `paths` anywhere, and segments of shared memory."""
    options = [((*path, "paths"), getattr(owner, "paths", ())) for path, owner in _owners(plan)]
    for path, patterns in options:
        yield from (((*path, index), text) for index, text in enumerate(patterns) if not _exists(text))
    names = shared_memory()
    for path, owner in _owners(plan):
        for index, text in enumerate(getattr(owner, "segments", ())):
            if not any(matches(name, text) for name in names):
                yield (*path, "segments", index), text


def _owners(plan: Plan[Any]) -> Iterator[tuple[Path, object]]:
    """Yield collectors and triggers that are on, with the place of their options."""
    config = plan.loaded.config
    triggers = {trigger.id: trigger.trigger for trigger in plan.triggers}
    for index, given in enumerate(config.triggers):
        if given.id in triggers:
            yield ("triggers", index), triggers[given.id]
    for name, pipeline in config.pipelines.items():
        steps = {step.id: step.collector for step in plan.pipelines[name].steps}
        for index, step in enumerate(pipeline.steps):
            if step.id in steps:
                yield ("pipelines", name, "steps", index, "with"), steps[step.id]


def _exists(pattern: str) -> bool:
    """Tell whether *pattern* matches anything; ``**`` is not searched below, that could take for ever."""
    head = pattern.partition("**")[0]
    return next(glob.iglob(head), None) is not None


def shared_memory() -> list[str]:
    """Return the names of the regular files in shared memory."""
    try:
        fd = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [entry.name for entry in walk(fd, Unreads()) if entry.regular]
    finally:
        os.close(fd)


def _unsafe(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the files that somebody other than their reader or root can change: who edits them commands root."""
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            continue  # the packaged default is no file of its own
        if stat.S_IMODE(status.st_mode) & 0o022:
            yield file, f"mode {stat.S_IMODE(status.st_mode):04o} lets others change it"
        elif status.st_uid not in (0, os.geteuid()):
            yield file, f"it belongs to uid {status.st_uid}"
