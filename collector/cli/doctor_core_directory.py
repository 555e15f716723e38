"""The directory that cores are written to: its room, and whether anybody cleans it up."""

from __future__ import annotations

import os
from collections.abc import Iterator

from collector.cli.check import Check
from collector.cli.doctor_cores import cores_go_to
from collector.cli.text import size
from collector.host.core_pattern_owner import is_taken, pattern_in_force
from collector.host.files import Host
from collector.host.filesystem import holds_memory
from collector.host.tmpfiles import cleaned_up_by
from collector.pipeline.generation import Generation
from collector.triggers.core_files import CoreFiles

ABOUT = "core files"
SCARCE_BYTES = 1 << 30
"""Less than a core of a program of ordinary size; the kernel cuts off what does not fit, without a word."""


def core_directory(generation: Generation, host: Host | None = None) -> Iterator[Check]:
    """Yield what is wrong with the directory where the kernel, or who takes the cores from it, writes them."""
    host = host or Host()
    example = cores_go_to(host)
    directory = os.path.dirname(example or "")
    if not directory or not os.path.isdir(host.path(directory)):
        return
    space = os.statvfs(host.path(directory))
    free = space.f_bavail * space.f_frsize
    if holds_memory(host.path(directory)):
        said = f"{directory} is in memory: a core there takes the memory that is short"
        yield Check("warning", ABOUT, said, "let core_pattern lead to a disk")
    elif free < SCARCE_BYTES or space.f_favail == 0 < space.f_files:
        what = f"{size(free)} free" if space.f_favail or not space.f_files else "no inode left"
        said = f"{directory} has {what}: cores are cut off or not written"
        yield Check("warning", ABOUT, said, "make room there, or let core_pattern lead to another disk")
    if not is_taken(pattern_in_force(host)):  # the known programs that take cores clean up after themselves
        yield _clean_up(generation, directory, host)


def _clean_up(generation: Generation, directory: str, host: Host) -> Check:
    real = os.path.realpath(host.path(directory))
    removing = [
        one.id
        for one in generation.triggers
        if isinstance(one.trigger, CoreFiles)
        and (one.trigger.remove != "never" or one.trigger.size is not None)
        and any(os.path.realpath(host.path(path)) == real for path in one.trigger.paths)
    ]
    if removing:
        return Check("ok", ABOUT, f"{directory} is kept bounded by {', '.join(removing)}")
    if (file := cleaned_up_by(host, directory)) is not None:
        return Check("ok", ABOUT, f"old files in {directory} are removed by systemd-tmpfiles: {file}")
    said = f"nothing removes cores from {directory}: it grows until the disk is full"
    line = f"d {directory} 1733 root root 14d"
    return Check("warning", ABOUT, said, f"a line in /etc/tmpfiles.d/collector.conf: {line}")
