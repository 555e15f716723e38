"""The machine, its boot and its kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass

from collector.host.clock import boot_id
from collector.host.files import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineIdentity:
    """The machine as an incident's header names it."""

    host: str
    boot_id: str
    kernel: str


def identify(host: Host | None = None) -> MachineIdentity:
    system = os.uname()
    return MachineIdentity(host=system.nodename, boot_id=boot_id(host), kernel=f"{system.release} {system.version}")
