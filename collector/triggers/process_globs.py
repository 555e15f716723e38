"""Globs that name processes, in the rules of several triggers."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from collector.model.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGlobs:
    """
    Which processes a rule is about. An empty list of globs does not restrict.

    Args:
        comm: Globs of command names, of which the kernel keeps 15 characters.
        exe: Globs of executables' paths.
        unit: Globs of systemd units, or of cgroup paths where there is no unit.
    """

    comm: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()

    def names(self, who: Identity | None) -> bool:
        """Return whether the globs match that process; an unknown one matches only a rule without globs."""
        wanted = ((self.comm, who and who.comm), (self.exe, who and who.exe), (self.unit, who and who.unit))
        return all(
            not globs or (value and any(fnmatch.fnmatchcase(value, glob) for glob in globs)) for globs, value in wanted
        )
