"""A probe of ``collector doctor`` that fails, without keeping the others from running."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from collector.cli.check import Check
from collector.model.errors import CollectorError


def guarded(probe: Callable[..., Iterator[Check]], *arguments: Any, **more: Any) -> Iterator[Check]:
    """Yield the checks of *probe*; if it fails, that it could not check."""
    try:
        yield from functools.partial(probe, *arguments, **more)()
    except (OSError, CollectorError, ValueError) as exc:
        hint = exc.hint if isinstance(exc, CollectorError) else None
        as_root = None if os.geteuid() == 0 else "run it as root (sudo)"
        yield Check("warning", probe.__name__.strip("_"), f"not checked: {exc}", hint or as_root)
