"""What matters of this machine to a configuration, read once; `warnings` then judges it without I/O."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from collector.collectors.command import RunCommand
from collector.collectors.shm.listing import ROOT, walk
from collector.config.directories import effective_archive_path, effective_runtime_directory
from collector.config.nodes import Path
from collector.host import filesystem
from collector.host.files import OpenFd
from collector.host.read_errors import ReadErrors
from collector.host.tree import Tree
from collector.model.owners import Owners
from collector.model.pressure import Sample
from collector.model.segments import matches
from collector.model.units import quote
from collector.pipeline.compile import Plan
from collector.pressure.sampler import Sampler


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """
    A directory of the collector, which may not exist yet: then *parent* is the nearest one above it that does.

    *problem* says why nothing can be written there; ``None`` if all is well.
    """

    path: str
    parent: str
    kind: str
    in_memory: bool
    free_bytes: int
    total_bytes: int
    problem: str | None


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What matters of the machine to a configuration.

    Args:
        sample: Its memory.
        archive: Where incidents would go.
        runtime: Where sockets would be.
        unmatched: Globs that match nothing now, by their place in the file.
        unsafe_files: Configuration files that others may change, and why.
        bad_programs: Why programs that the file names would not run, or must not, by the place of their `argv`.
    """

    sample: Sample
    archive: Place
    runtime: Place
    unmatched: dict[Path, str]
    unsafe_files: dict[str, str]
    bad_programs: dict[Path, str]


def survey(plan: Plan[Any], *, is_root: bool, environ: Mapping[str, str]) -> MachineFacts:
    """Return the facts of this machine that matter to *plan*, for this user."""
    config = plan.loaded.config
    return MachineFacts(
        sample=Sampler().sample(),
        archive=place(effective_archive_path(config, is_root=is_root, environ=environ)),
        runtime=place(effective_runtime_directory(config, is_root=is_root, environ=environ)),
        unmatched=dict(_unmatched(plan)),
        unsafe_files=dict(_unsafe(plan.loaded.files)),
        bad_programs=dict(_bad_programs(plan)),
    )


def place(path: str) -> Place:
    """Return what is known of a directory, or of the nearest one above it that exists."""
    parent = filesystem.nearest_directory(path)
    problem = None
    if parent != path and os.path.lexists(
        blocking := os.path.join(parent, os.path.relpath(path, parent).split("/")[0])
    ):
        problem = f"{blocking} is not a directory"
    elif os.statvfs(parent).f_flag & os.ST_RDONLY:
        problem = f"{parent} is mounted read-only"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"{parent} is not writable"
    with OpenFd(os.open(parent, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)) as fd:
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


def _unmatched(plan: Plan[Any]) -> Iterator[tuple[Path, str]]:
    """Yield globs that match nothing: of all options named `paths`, and of segments of shared memory."""
    names = _shared_memory()
    for path, owner in _owners(plan):
        for index, text in enumerate(getattr(owner, "paths", ())):
            if not _exists(text):
                yield (*path, "paths", index), text
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


def _bad_programs(plan: Plan[Any]) -> Iterator[tuple[Path, str]]:
    """Yield the places of programs that cannot run, or that others can change: root would run what they write."""
    handover = plan.loaded.config.on_archived.argv
    steps = [((*path, "argv"), owner.argv[0]) for path, owner in _owners(plan) if isinstance(owner, RunCommand)]
    for path, program in [*steps, *([(("on_archived", "argv"), handover[0])] if handover else [])]:
        try:
            status = os.stat(program)
        except OSError as exc:
            yield (*path, 0), f"{quote(program)} cannot run: {exc.strerror}"
            continue
        if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
            yield (*path, 0), f"{quote(program)} cannot run: it is not an executable file"
        elif why := _changeable(status):
            yield (*path, 0), f"{quote(program)} must not run as it is: {why}"


def _exists(pattern: str) -> bool:
    """Return whether *pattern* matches anything; below a ``**`` nothing is searched: that could take very long."""
    return next(glob.iglob(pattern.partition("**")[0]), None) is not None


def _shared_memory() -> list[str]:
    """Return the names of the regular files in shared memory."""
    try:
        fd = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    with OpenFd(fd):
        tree: Tree[None] = Tree(fd, ROOT, owners=Owners(), unread=ReadErrors())
        return [entry.name for entry in walk(tree) if entry.is_segment]


def _unsafe(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the files that users other than their reader and root can change: root would run what they write."""
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            continue  # the packaged default is not a file of its own
        if why := _changeable(status):
            yield file, why


def _changeable(status: os.stat_result) -> str:
    """Return why others than root and this user may change a file; else an empty string."""
    if stat.S_IMODE(status.st_mode) & 0o022:
        return f"mode {stat.S_IMODE(status.st_mode):04o} lets others change it"
    return "" if status.st_uid in (0, os.geteuid()) else f"it belongs to uid {status.st_uid}"
