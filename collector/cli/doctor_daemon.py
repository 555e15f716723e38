"""The daemon: whether it runs, answers, is up to date, and may do what it has to."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from collector import __version__
from collector.cli.check import Check, Level
from collector.cli.systemctl import unit_properties
from collector.config.spec import RUNTIME_DIRECTORY
from collector.daemon.messages import Status
from collector.daemon.private_directory import MEND, why_not_private
from collector.host.files import Host
from collector.host.process import OOM_LAST
from collector.model.errors import CollectorError, DeniedError
from collector.model.own_processes import UNIT
from collector.model.units import counted
from collector.pipeline.generation import Generation

ABOUT = "daemon"
CAPABILITIES = {"SYS_PTRACE": 19, "DAC_READ_SEARCH": 2, "LEASE": 28, "SYSLOG": 34, "NET_ADMIN": 12}
"""Those without which evidence or crashes are lost (docs/operations.md, "Privileges"). Source: linux/capability.h."""

STATUS_BYTES = 8192


def daemon(generation: Generation, answer: Status | CollectorError, host: Host | None = None) -> Iterator[Check]:
    """Yield what is wrong with the daemon; *answer* is its status, or why there is none."""
    if isinstance(answer, Status):
        yield Check("ok", ABOUT, f"answers in {generation.runtime_directory}")
        yield from _in_force(generation, answer)
        yield from _running(answer)
        yield from _process(answer.pid, host or Host())
    elif isinstance(answer, DeniedError):
        yield Check("warning", ABOUT, f"not checked: {answer}", answer.hint)
    else:
        yield Check("warning", ABOUT, f"{answer}: no crash is noticed", answer.hint, unnoticed=True)
        yield from _cannot_start(generation.runtime_directory)
    if generation.runtime_directory == RUNTIME_DIRECTORY:
        yield from _unit(is_up=isinstance(answer, Status))


def _cannot_start(directory: str) -> Iterator[Check]:
    """Yield why a daemon cannot start, as far as its runtime directory is the reason."""
    with contextlib.suppress(OSError):  # it is created
        if (reason := why_not_private(directory)) is not None:
            yield Check("warning", ABOUT, f"it cannot start: {reason}", MEND)


def _in_force(generation: Generation, status: Status) -> Iterator[Check]:
    """Yield whether what runs is what is installed."""
    if status.version != __version__:
        said = f"it is version {status.version}, and {__version__} is installed"
        yield Check("warning", ABOUT, said, f"systemctl restart {UNIT}: a restart loses nothing")
    if status.drained_s is not None:
        said = f"it is drained: {status.queued} crashes wait, and nothing begins"
        yield Check("warning", ABOUT, said, "restart it, or `collector drain --off`")
    if status.config_problem:
        said = "a reload was refused; the old configuration is in force"
        yield Check("warning", ABOUT, said, "`collector config check` says why")
    elif status.config_hash != generation.loaded.hash:
        said = f"the configuration in force is not that of {generation.loaded.source}"
        if status.config_source != generation.loaded.source:
            said = f"{said}: it runs with {status.config_source}"
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.since_s))
        yield Check("warning", ABOUT, f"{said} (running since {since})", "`collector config reload`")
    if status.after_restart:
        said = f"changed, but not in force before a restart: {', '.join(status.after_restart)}"
        yield Check("warning", ABOUT, said, f"systemctl restart {UNIT}")


def _running(status: Status) -> Iterator[Check]:
    """Yield what the daemon says of itself."""
    for trigger, state in status.triggers.items():
        level: Level = "ok" if state == "watching" else "warning"
        yield Check(level, "trigger", f"{trigger}: {state}")
    for trigger, lost in status.lost.items():
        if lost:
            yield Check("ok", "trigger", f"{trigger}: {counted(lost, 'marker')} lost since the archive began")
    if status.ledger_problem:
        yield Check("warning", "ledger", status.ledger_problem)
    if status.workers_abandoned:
        workers = counted(len(status.workers_abandoned), "abandoned worker")
        said = f"{workers}: a source in the kernel does not answer"
        yield Check("warning", ABOUT, said, "docs/operations.md, Abandoned workers")


def _process(pid: int, host: Host) -> Iterator[Check]:
    """Yield what the daemon's process lacks; nothing if it cannot be looked at from here."""
    try:
        status = host.read(f"/proc/{pid}/status", limit=STATUS_BYTES).decode(errors="replace")
        score = int(host.read(f"/proc/{pid}/oom_score_adj", limit=16))
    except (OSError, ValueError):
        return
    permitted = re.search(r"^CapPrm:\s*([0-9a-f]+)$", status, re.MULTILINE)
    has = int(permitted[1], 16) if permitted else 0
    lacking = [f"CAP_{name}" for name, number in CAPABILITIES.items() if not has >> number & 1]
    if lacking:
        said = f"its process lacks {', '.join(lacking)}"
        yield Check("warning", ABOUT, said, "docs/operations.md, Privileges, says what is lost without them")
    if score > OOM_LAST:
        said = f"its oom_score_adj is {score}: the kernel may kill it first where memory runs out"
        yield Check("warning", ABOUT, said, f"OOMScoreAdjust={OOM_LAST}, as in the shipped unit")


def _unit(*, is_up: bool) -> Iterator[Check]:
    """Yield why the service does not run, or would not after the next boot; nothing without systemd."""
    found = unit_properties(
        UNIT, "LoadState", "ActiveState", "UnitFileState", "Result", "ExecMainStatus", "NeedDaemonReload"
    )
    load, state, file = (found.get(name, "") for name in ("LoadState", "ActiveState", "UnitFileState"))
    if load == "masked":
        yield Check("warning", ABOUT, f"{UNIT} is masked: it cannot be started", f"systemctl unmask {UNIT}")
    elif load == "not-found":
        if not is_up:
            yield Check("warning", ABOUT, f"there is no {UNIT}", "install the package crash-collector (README.md)")
    elif load and load != "loaded":
        yield Check("warning", ABOUT, f"{UNIT} cannot be loaded: {load}", f"systemctl status {UNIT}")
    elif state == "failed":
        said = f"{UNIT} has failed ({found.get('Result')}, exit status {found.get('ExecMainStatus')})"
        yield Check("warning", ABOUT, said, f"`journalctl -u collector` says why; then systemctl start {UNIT}")
    elif load and file == "disabled":
        yield Check("warning", ABOUT, f"{UNIT} is not started at boot", f"systemctl enable {UNIT}")
    elif load and found.get("NeedDaemonReload") == "yes":
        yield Check("warning", ABOUT, f"{UNIT} was changed on disk", f"systemctl daemon-reload, and restart {UNIT}")
