"""The recent cases, by what a later marker of the same crash would know of it. Pure."""

from __future__ import annotations

from collector.model.case import Case, executable
from collector.model.identity import invocation, is_a_claim, is_about_a_process, tasks, tells_image
from collector.model.marker import Marker
from collector.model.shares import FairTable

MAX_RECENT = 4096  # keys, of which a case has up to ten


class RecentCases:
    """A bounded table of keys; `identity.agreement` decides whether markers that share one are one crash."""

    def __init__(self) -> None:
        self._table: FairTable[str, Case] = FairTable(MAX_RECENT)

    def add(self, case: Case, marker: Marker, *, owner: str) -> None:
        """Make *case* findable by what *marker* says about the crash, on the account of the marker's *owner*."""
        for key in (*(_images(marker) if is_a_claim(marker) else _keys(marker)), *_claims(marker)):
            self._table.put(key, case, owner)

    def sharing(self, marker: Marker) -> list[Case]:
        """Return the cases that share a key with *marker*."""
        found = (self._table.get(key) for key in (*_keys(marker), *_claims(marker)))
        return list({case.id: case for case in found if case is not None}.values())

    def of_event(self, marker: Marker) -> Case | None:
        """Return the case about the same event, of the machine rather than of a process."""
        return self._table.get(executable(marker))


def _keys(marker: Marker) -> list[str]:
    """Return the keys under which markers of one crash find each other; `agreement` then decides."""
    if not is_about_a_process(marker):
        return [executable(marker)]
    keys = [f"task {number}" for number in tasks(marker)]
    if marker.process is not None and marker.process.start_time_ticks is not None:
        keys.append(f"process {marker.process.pid} {marker.process.start_time_ticks}")
    run = invocation(marker)
    if marker.image is not None:
        keys.append(f"image {marker.image} {marker.inner_pid}")
    return keys + ([f"invocation {run}"] if run is not None else [])


def _images(marker: Marker) -> list[str]:
    """Return the key of the process's memory."""
    known = marker.image is not None and tells_image(marker)
    return [f"image {marker.image} {marker.inner_pid}"] if known else []


def _claims(marker: Marker) -> list[str]:
    """Return the keys of a user's own: what he claims must not take the place of what is certain."""
    return [f"{key} of uid {marker.uid}" for key in _keys(marker)]
