"""The machine, its boot and its kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass

from collector.host.files import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineIdentity:
    """The machine as an incident's header names it."""

    host: str
    boot_id: str
    kernel: str


def identify(host: Host | None = None) -> MachineIdentity:
    system = os.uname()
    boot_id = (host or Host()).read("/proc/sys/kernel/random/boot_id", limit=64)
    return MachineIdentity(
        host=system.nodename, boot_id=boot_id.decode().strip(), kernel=f"{system.release} {system.version}"
    )
