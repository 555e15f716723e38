"""Bounded kinds of values that several sections share."""

from __future__ import annotations

from typing import Annotated

import msgspec

# A name becomes a directory or a word in a log line: nothing in it needs quoting anywhere.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Directory = Annotated[str, msgspec.Meta(pattern=r"^/")]
