"""Every trigger by its name. A new one is one import and one line."""

from __future__ import annotations

from collector.triggers.base import Trigger
from collector.triggers.core_files import CoreFiles
from collector.triggers.exit_files import ExitFiles
from collector.triggers.kernel_cores.kernel_cores import KernelCores
from collector.triggers.kernel_log import KernelLog
from collector.triggers.memory_pressure import MemoryPressure
from collector.triggers.notify import Notify
from collector.triggers.process_exits import ProcessExits

TRIGGERS: dict[str, type[Trigger]] = {
    cls.name: cls
    for cls in (
        CoreFiles,
        ExitFiles,
        KernelCores,
        KernelLog,
        MemoryPressure,
        Notify,
        ProcessExits,
    )
}
