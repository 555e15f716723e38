"""Every collector by its name. A new one is one import and one line."""

from __future__ import annotations

from collector.collectors.base import Collector
from collector.collectors.block.block import Block
from collector.collectors.cgroup.cgroup import Cgroup
from collector.collectors.command import RunCommand
from collector.collectors.core.core import Core
from collector.collectors.dmesg import Dmesg
from collector.collectors.files.files import Files
from collector.collectors.journal.journal import Journal
from collector.collectors.network.network import Network
from collector.collectors.proc_files.proc_files import ProcFiles
from collector.collectors.process.process import ProcessDetails
from collector.collectors.process_table.process_table import ProcessTable
from collector.collectors.shm.shm import Shm

COLLECTORS: dict[str, type[Collector]] = {
    cls.name: cls
    for cls in (
        ProcFiles,
        ProcessTable,
        Dmesg,
        Journal,
        ProcessDetails,
        Cgroup,
        Network,
        Block,
        Core,
        Shm,
        Files,
        RunCommand,
    )
}
