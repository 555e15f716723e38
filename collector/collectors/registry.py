"""Every collector by its name. A new one is one import and one line."""

from __future__ import annotations

from collector.collectors.base import Collector

COLLECTORS: dict[str, type[Collector]] = {
    cls.name: cls
    for cls in (
    )
}
