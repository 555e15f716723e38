"""Which cgroup is the crash's: that of its process while it is there, else the one that its marker remembers."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from collector.collectors.base import Context
from collector.collectors.cgroup.levels import Chain, open_chain
from collector.host.cgroup_membership import (
    CGROUP_BYTES,
    Hierarchy,
    Membership,
    hierarchy_of,
    memberships,
    recall,
)
from collector.host.files import DIRECTORY_FLAGS, Host, OpenFd
from collector.host.process_stat import DEAD_STATES
from collector.host.procfs import Process
from collector.model.errors import StepError
from collector.model.marker import CGROUP, OOM_CGROUP, SYSTEM_UNIT, ProcessRef

PF_EXITING = 0x4
"""Set before the memory is freed, which takes long: of a process killed for it, v1 shows no cgroup while it runs on."""
MAX_SLICES = 256
"""Slices looked through for a unit that is known by its name alone; a machine has about ten."""


class CgroupSource(enum.StrEnum):
    """How it is known which cgroup is the crash's."""

    PROCESS = "process"
    REMEMBERED = "remembered"
    UNIT = "unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    The crash's cgroups; *lost* is why its process was not asked, *confirmed* that it was there all the while.

    Without *chains*, nothing else tells them either, or they are not mounted here.
    """

    source: CgroupSource
    chains: tuple[Chain, ...]
    place: int = 0
    confirmed: bool = False
    lost: str = ""


def select(
    ctx: Context, mounted: tuple[Hierarchy, ...], *, limit: int, place: int, stack: ExitStack
) -> Selection | None:
    """
    Return the crash's cgroups, opened; ``None`` if the marker tells nothing about them.

    Only the kernel and root say to which unit a process belongs: a name that an ordinary user reports is not looked up.
    """
    known = (*recall(ctx.marker.attributes.get(OOM_CGROUP, "")), *recall(ctx.marker.attributes.get(CGROUP, "")))
    remembered = tuple({one.controllers: one for one in known}.values())
    lost = ""
    if (process := _process_of(ctx)) is not None:
        try:
            return _of_process(ctx, process, remembered, mounted, limit=limit, place=place, stack=stack)
        except (OSError, StepError) as exc:
            lost = f"process {process.pid}: {'it had ended' if isinstance(exc, OSError) else exc}"
    source = CgroupSource.REMEMBERED
    if not remembered and (unit := ctx.marker.attributes.get(SYSTEM_UNIT)):
        source, remembered = CgroupSource.UNIT, _unit(ctx.host, unit, mounted)
    if not remembered and not lost:
        return None
    return Selection(
        source=source,
        chains=_open(ctx.host, remembered, mounted, limit=limit, place=place, stack=stack),
        place=place,
        lost=lost,
    )


def _process_of(ctx: Context) -> ProcessRef | None:
    """Return the process if it can be told from a later one with its PID."""
    found = ctx.held.process if ctx.held is not None else ctx.marker.process
    certain = found is not None and found.start_time_ticks is not None and not ctx.marker.doubtful
    return found if certain else None


def _of_process(
    ctx: Context,
    reference: ProcessRef,
    remembered: tuple[Membership, ...],
    mounted: tuple[Hierarchy, ...],
    *,
    limit: int,
    place: int,
    stack: ExitStack,
) -> Selection:
    """Open its cgroups, and make sure that it was in them before and after: no later one can have their names then."""
    with Process(ctx.host, reference.pid, reference.start_time_ticks) as process:
        text = process.read("cgroup", limit=CGROUP_BYTES)
        stat = process.stat()
        exiting = stat.state in DEAD_STATES or bool(stat.flags & PF_EXITING)
        found = _of_exiting(text, remembered) if exiting else tuple(memberships(text))
        if not found:
            raise StepError("it is exiting, and shows no cgroup any more")
        chains = _open(ctx.host, found, mounted, limit=limit, place=place, stack=stack)
        process.check()
        said = {(one.controllers, one.path) for one in memberships(text)}
        confirmed = process.read("cgroup", limit=CGROUP_BYTES) == text and all(
            (one.controllers, one.path) in said for one in found
        )
    return Selection(source=CgroupSource.PROCESS, chains=chains, place=place, confirmed=confirmed)


def _of_exiting(text: bytes, remembered: tuple[Membership, ...]) -> tuple[Membership, ...]:
    """Return what is known of a process that exits: v1 shows it at each hierarchy's root, v2 still has its path."""
    known = {one.controllers: one for one in remembered}
    for one in memberships(text):
        before = known.get(one.controllers)
        if one.path != "/" and (before is None or before.path != one.path):
            known[one.controllers] = one
    return tuple(known.values())


def _open(
    host: Host,
    found: tuple[Membership, ...],
    mounted: tuple[Hierarchy, ...],
    *,
    limit: int,
    place: int,
    stack: ExitStack,
) -> tuple[Chain, ...]:
    """Open each hierarchy in which it is in a cgroup of its own; if there is none, the roots."""
    chains: list[Chain] = []
    for member in [one for one in found if one.path != "/"] or found:
        hierarchy = hierarchy_of(member, mounted)
        if hierarchy is not None and all(chain.hierarchy is not hierarchy for chain in chains):
            chains.append(open_chain(host, hierarchy, member, limit=limit, place=place, stack=stack))
    return tuple(sorted(chains, key=lambda chain: mounted.index(chain.hierarchy)))


def _unit(host: Host, unit: str, mounted: tuple[Hierarchy, ...]) -> tuple[Membership, ...]:
    """Return where a unit of the system's manager is, in all hierarchies; its slice if it is nowhere."""
    keeper = next((one for one in mounted if not one.controllers or "name=systemd" in one.controllers), None)
    if keeper is None or "/" in unit or unit.startswith("."):
        return ()
    path = next(
        (f"{below}/{unit}" for below in _slices(host, keeper.point) if _is_there(host, keeper, below, unit)), ""
    )
    path = path or f"/system.slice/{unit}"
    return tuple(Membership(",".join(sorted(one.controllers)), path) for one in mounted)


def _is_there(host: Host, keeper: Hierarchy, below: str, unit: str) -> bool:
    return os.path.isdir(host.path(f"{keeper.point}{below}/{unit}"))


def _slices(host: Host, point: str) -> Iterator[str]:
    """Yield the slices of the system's manager, outer ones first. Below a unit, any name may be somebody else's."""
    waiting = ["/system.slice", ""]
    for _ in range(MAX_SLICES):
        if not waiting:
            return
        path = waiting.pop(0)
        yield path
        try:
            with OpenFd(os.open(host.path(f"{point}{path}"), DIRECTORY_FLAGS)) as fd, os.scandir(fd) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".slice"))
        except OSError:
            continue
        waiting += [below for name in names if (below := f"{path}/{name}") not in {"/system.slice", "/user.slice"}]
