"""Every trigger by its name. A new one is one import and one line."""

from __future__ import annotations

from collector.triggers.base import Trigger
from collector.triggers.core_files import CoreFiles
from collector.triggers.process_exits import ProcessExits

TRIGGERS: dict[str, type[Trigger]] = {cls.name: cls for cls in (CoreFiles,)}
