"""One line of ``collector doctor``."""

from __future__ import annotations

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One fact about the machine, and what to do if it is not ok."""

    level: Literal["ok", "warning", "bad"]
    about: str
    said: str
    hint: str | None = None
