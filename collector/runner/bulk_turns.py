"""Whose bulk is copied next: one incident's at a time, by turns of who pays; root's also beside a user's."""

from __future__ import annotations

from collector.model.owners import is_protected, user_of


class BulkTurns:
    """
    The incidents that have bulk to copy, by id.

    Root and the configured units go first, then the user whose turn was longest ago; his incidents in their order. What
    an ordinary user has begun to copy may take minutes, and root's segments vanish meanwhile: root and the units have a
    second turn beside it.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}
        self._current: str | None = None
        self._beside: str | None = None
        self._served: dict[str, int] = {}  # of the users who wait: when their last turn was
        self._turn = 0

    def enter(self, incident: str, owner: str) -> None:
        """Let *incident* wait for a turn."""
        self._waiting[incident] = user_of(owner)

    def is_its(self, incident: str) -> bool:
        """Return whether it is the turn of *incident*, until it leaves."""
        if incident == self._beside:
            return True
        if self._current is None:
            self._current = min((one for one in self._waiting if one != self._beside), key=self._order)
        if self._beside is None and not is_protected(self._waiting[self._current]):
            first = min(self._waiting, key=self._order)
            self._beside = first if is_protected(self._waiting[first]) else None
        return incident in {self._current, self._beside}

    def is_beside(self, incident: str) -> bool:
        """Return whether *incident* has the second turn, beside another one's."""
        return incident == self._beside

    def leave(self, incident: str) -> None:
        """End the turn of *incident*, or its waiting."""
        user = self._waiting.pop(incident)
        if incident == self._beside:
            self._beside = None
        elif incident == self._current:
            self._current = None
            self._turn += 1
            self._served[user] = self._turn
        self._served = {user: turn for user, turn in self._served.items() if user in self._waiting.values()}

    def _order(self, incident: str) -> tuple[bool, int]:
        user = self._waiting[incident]
        return not is_protected(user), self._served.get(user, 0)
