"""Bounded kinds of values that several sections share."""

from __future__ import annotations

from typing import Annotated

import msgspec

from collector.model.units import Seconds

# A name becomes a directory or a word in a log line: nothing in it needs quoting anywhere.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Deadline = Annotated[Seconds, msgspec.Meta(ge=0.1)]
Window = Annotated[Seconds, msgspec.Meta(ge=1.0)]
# In the file 11 is as good as SIGSEGV; both are loaded as text.
Signal = Annotated[str, msgspec.Meta(extra_json_schema={"type": ["string", "integer"]})]
# Of the system's own manager: a user's may have units of any name.
SystemUnit = Annotated[str, msgspec.Meta(pattern=r"^[^/\s]+\.(service|scope)$")]
Directory = Annotated[str, msgspec.Meta(pattern=r"^/")]

LabelName = Annotated[str, msgspec.Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]
# On one line, and short: it is shown on screens. `$` alone would let a line break in at the end.
LabelText = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,256}$(?!\n)")]
MAX_LABELS = 32
