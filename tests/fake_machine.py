"""A machine that is made up: a root directory with what `collector doctor` reads."""

from __future__ import annotations

from pathlib import Path

from collector.cli.check import Check
from collector.cli.doctor_core_pattern import kernel_cores
from collector.cli.doctor_cores import cores
from collector.cli.doctor_crashes import crashes
from collector.host.files import Host
from collector.pipeline.generation import Generation, generate
from collector.triggers.registry import TRIGGERS

CORES = "{id: cores, type: core_files, paths: [/var/crash, /var/lib/systemd/coredump], pipeline: crash}"
ABRT = "{id: cores, type: core_files, paths: [/var/spool/abrt], recursive: 1, match: [coredump], pipeline: crash}"
EXITS = "{id: deaths, type: process_exits, pipeline: crash}"
KERNEL = "{id: kernel, type: kernel_log, events: [oom_kill], pipeline: crash}"
SYSTEMD = "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h"


class FakeMachine:
    """A root directory with what `doctor` reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/sys/kernel/core_uses_pid", "0\n")
        self.write("proc/sys/fs/suid_dumpable", "0\n")
        self.pattern("core\n")
        self.directory("var/crash", 0o1733)
        for program in ("usr/lib/systemd/systemd-coredump", "usr/share/apport/apport", "usr/libexec/abrt-hook-ccpp"):
            self.write(program, "")
            (self.root / program).chmod(0o755)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def directory(self, path: str, mode: int) -> None:
        (self.root / path).mkdir(parents=True, exist_ok=True)
        (self.root / path).chmod(mode)

    def pattern(self, text: str) -> None:
        self.write("proc/sys/kernel/core_pattern", text)

    def process(self, pid: int, cgroup: str, limit: str = "0") -> None:
        line = f"Max core file size        {limit:<20} unlimited            bytes     \n"
        self.write(
            f"proc/{pid}/limits", f"Limit                     Soft Limit           Hard Limit           Units\n{line}"
        )
        self.write(f"proc/{pid}/cgroup", cgroup)

    def cores(self, *triggers: str) -> Check:
        (check,) = cores(self.configuration(*triggers), Host(str(self.root)))
        return check

    def crashes(self, *triggers: str) -> dict[str, Check]:
        return {check.about: check for check in crashes(self.configuration(*triggers), Host(str(self.root)))}

    def kernel_cores(self, *triggers: str, release: str = "6.18.0") -> Check:
        found = kernel_cores(self.configuration(*triggers), Host(str(self.root)), release=release)
        return next(found)

    def configuration(self, *triggers: str) -> Generation:
        listed = "".join(f"  - {trigger}\n" for trigger in triggers) or "  []\n"
        runtime = f"runtime: {{directory: {self.root}/run}}\n"
        text = (
            f"version: 1\n{runtime}triggers:\n{listed}pipelines: {{crash: {{steps: [{{id: a, collector: dmesg}}]}}}}\n"
        )
        self.write("c.yaml", text)
        return generate(str(self.root / "c.yaml"), TRIGGERS)
