"""One line of ``collector doctor``."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "bad"]


class Check(msgspec.Struct, frozen=True):
    """
    One fact about the machine, and what to do if it is not ok.

    *unnoticed*: because of it there is a kind of crash that no trigger would notice; ``--strict`` goes by that.
    """

    level: Level
    about: str
    said: str
    hint: str | None = None
    unnoticed: bool = False
