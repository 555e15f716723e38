"""Which archived incidents stay."""

from __future__ import annotations

from typing import Annotated

import msgspec

from collector.model.constrained import Count
from collector.model.units import Bytes, Seconds


class RetentionRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which archived incidents stay. Until every bound holds, the oldest of the user who holds most is deleted; a quarter
    is for root and the configured units alone. ``null`` lifts a bound. Nothing is deleted because others fill the disk.

    Args:
        count: Maximum number of incidents; of those beyond a budget (``storm.over_budget``), as many again.
        age_s: Incidents older than this are deleted within a day; the newest always stays. Only time
            that the machine has been running counts, whatever its date says.
        size_bytes: Maximum space of all incidents together, as it was when they were sealed; at most three
            quarters of the file system without its reserve. Set it to what the disk can spare: a new incident
            is refused if the disk has no room, and the archive is within its bounds.
    """

    count: Count | None = 50
    # The bounds catch a missing unit: `age: 14` would be 14 seconds, `size: 200` 200 bytes.
    age_s: Annotated[Seconds, msgspec.Meta(ge=3600.0)] | None = msgspec.field(
        name="age", default=Seconds(14 * 86_400.0)
    )
    size_bytes: Annotated[Bytes, msgspec.Meta(ge=1 << 20)] | None = msgspec.field(name="size", default=Bytes(200 << 30))
