"""A wall clock that a test can set, for the programs that it starts; files keep the machine's own."""

from __future__ import annotations

from pathlib import Path

from harness import HERE
from machine import compiled

DAY = 86_400


class WallClock:
    """Sets the wall clock of every program that is run with its `environment`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "ahead"
        library = compiled(HERE / "wall_clock.c", directory, "-shared", "-fPIC")
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._file)}
        self.set(0)

    @property
    def prefix(self) -> tuple[str, ...]:
        """The beginning of a command that sees this clock."""
        return ("env", *(f"{name}={value}" for name, value in self.environment.items()))

    def set(self, ahead_s: int) -> None:
        """Set it to be *ahead_s* seconds ahead of the machine's, from now on."""
        self._file.write_text(str(ahead_s), encoding="ascii")
