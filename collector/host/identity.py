"""The machine, its boot and its kernel."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from collector.host.clock import boot_id
from collector.host.files import Host

MACHINE_ID = "/etc/machine-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineIdentity:
    """
    The machine as an incident's header names it.

    *machine_id* is that of ``/etc/machine-id``, 32 hex digits, by which inventories and journals know the machine;
    empty if it has none. Source: machine-id(5).
    """

    host: str
    boot_id: str
    kernel: str
    machine_id: str = ""


def identify(host: Host | None = None) -> MachineIdentity:
    system = os.uname()
    return MachineIdentity(
        host=system.nodename,
        boot_id=boot_id(host),
        kernel=f"{system.release} {system.version}",
        machine_id=_machine_id(host or Host()),
    )


def _machine_id(host: Host) -> str:
    """Return the machine's id; empty while it is ``uninitialized``, or where there is no such file."""
    try:
        text = host.read(MACHINE_ID, limit=64).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return text if re.fullmatch("[0-9a-f]{32}", text) else ""
