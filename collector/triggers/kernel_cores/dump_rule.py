"""Whose dumps are refused."""

from __future__ import annotations

from dataclasses import dataclass

from collector.model.identity import Identity
from collector.triggers.process_globs import ProcessGlobs


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpRule(ProcessGlobs):
    """
    Processes whose crashes are left alone; each key that the rule has must match.

    Args:
        comm: Globs of command names, of which the kernel keeps 15 characters.
        exe: Globs of executables' paths.
        unit: Globs of systemd units, or of cgroup paths where there is no unit.
        uid: Real uids.
    """

    uid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.comm or self.exe or self.unit or self.uid):
            raise ValueError("a rule needs comm, exe, unit or uid: without any, every dump would be refused")

    def refuses(self, who: Identity) -> bool:
        return self.names(who) and (not self.uid or who.uid in self.uid)
