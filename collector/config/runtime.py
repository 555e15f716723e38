"""The sections `runtime` and `storm`: the daemon's own life, and what a flood may cost."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from collector.config.constrained import Count, Deadline, Directory, Window
from collector.model.units import Bytes, Seconds

RUNTIME_DIRECTORY = "/run/collector"


class CountBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    So many incidents in so much time.

    Args:
        count: Incidents admitted within *window*; what comes beyond is recorded and not collected.
        window: Length of the sliding window.
    """

    count: Count = 5
    window: Window = Seconds(600.0)


class TotalBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    So many incidents, and so much data, in so much time.

    Args:
        count: Incidents admitted within *window*.
        bytes: Data archived within *window*.
        window: Length of the sliding window.
    """

    count: Count = 20
    bytes: Bytes = Bytes(200 << 30)
    window: Window = Seconds(3600.0)


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a flood of crashes may cost. Every marker is recorded, whether it is collected or not.

    Args:
        coalesce: Markers of one crash that arrive within this time become one incident.
        per_executable: Budget of each executable.
        per_uid: Budget of each user.
        total: Budget of the machine.
        queue: Markers that may wait for their turn.
    """

    coalesce: Seconds = Seconds(5.0)
    per_executable: CountBudget = CountBudget()
    per_uid: CountBudget = CountBudget(count=10)
    total: TotalBudget = TotalBudget()
    queue: Count = 64


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """
    The daemon's own life.

    Args:
        directory: Sockets and locks, mode 0700. The default becomes ``$RUNTIME_DIRECTORY`` where
            systemd sets it, and ``$XDG_RUNTIME_DIR/collector`` without root.
        workers: Processes kept warm: one runs a step, the others stand by for one that wedges.
        nice: Niceness of workers, but for the moment in which they read light evidence.
        ionice: I/O class of workers, likewise: ``idle``, ``best-effort`` or ``none`` (as it is). A hint only:
            the ``none`` scheduler of NVMe disks ignores it.
        incident_timeout: An incident that takes longer is sealed with what it has.
        reload_on_change: Load the configuration again when its files change.
    """

    directory: Directory = RUNTIME_DIRECTORY
    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    ionice: Literal["idle", "best-effort", "none"] = "idle"
    incident_timeout: Deadline = Seconds(1800.0)
    reload_on_change: bool = False
