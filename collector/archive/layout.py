"""
Names in the archive, all of which this program generates.

``ID.opening`` has no header yet, ``ID.partial`` is under way, ``ID`` is sealed, ``ID.deleting`` is being deleted;
``ID.handover`` is a file that says what became of handing it over.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

OPENING = ".opening"
PARTIAL = ".partial"
DELETING = ".deleting"
HANDOVER = ".handover"
PART = ".part"
"""An artifact being written; it is renamed to the name without this suffix once it is complete."""

HEADER = "incident.json"
STEPS = "steps.jsonl"
ARTIFACTS = "artifacts.jsonl"
CONTINUED = "continued.jsonl"
MANIFEST = "manifest.json"
NEW = ".new"
"""A file that is about to replace the one without this suffix."""
LEDGER = "ledger.sqlite"
CLOCK = "clock.json"

ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}")
COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PATH = re.compile(f"{COMPONENT.pattern}(?:/{COMPONENT.pattern})*")


def new_id(at_s: float) -> str:
    """Return an id: a label by the wall clock, which an order must not go by, with nothing an attacker could choose."""
    at = datetime.fromtimestamp(at_s, UTC)
    return f"{at:%Y%m%dT%H%M%S.%f}Z-{os.urandom(3).hex()}"


def is_id(name: str) -> bool:
    return ID.fullmatch(name) is not None


def id_before(name: str, suffix: str) -> str | None:
    """Return the id in *name* if that is an id followed by *suffix*."""
    incident = name.removesuffix(suffix)
    return incident if incident != name and is_id(incident) else None


def is_artifact_path(path: str) -> bool:
    """Return whether *path* is relative, has no ``..``, and consists of names that this program generates."""
    return len(path) < 1024 and _PATH.fullmatch(path) is not None
