"""A real crash, handled as Apport does: from the kernel's pipe to the archived incident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_report
import pytest
from configuration import CORE, MEMORY, SEGMENTS, config_of
from harness import Daemon, segment, steps_of, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
NOBODY = 65_534
CONFIG = config_of(
    MEMORY, CORE, SEGMENTS, triggers=("{id: cores, type: core_files, paths: [$cores], pipeline: crash}",)
)
HANDLER = """\
#!{python}
import os, sys
sys.path.insert(0, {tests!r})
import fake_report
pid, signal = sys.argv[1:]
texts = {{key: open(f"/proc/{{pid}}/{{name}}", encoding="utf-8").read().strip()
         for key, name in {{"ProcMaps": "maps", "ProcStatus": "status"}}.items()}}
exe = os.readlink(f"/proc/{{pid}}/exe")
core = sys.stdin.buffer.read()
path = f"{cores}/{{exe.replace('/', '_')}}.0.crash"
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0)
values = fake_report.values_of(0) | texts | {{"Signal": signal, "ExecutablePath": exe}}
with os.fdopen(fd, "wb") as file:
    file.write(fake_report.report(values, fake_report.packed(core)))
    file.flush()
    os.fchmod(fd, 0o640)
"""
CRASH = """
import ctypes, mmap, os, sys
held = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
ctypes.memset(0x1234, 1, 1)
"""


def test_apport_incident_has_the_process_its_core_and_its_segments(daemon_factory: Callable[..., Daemon]) -> None:
    """All of it from the report: the kernel gave the core to the handler, and no other file exists."""
    daemon = daemon_factory(CONFIG)
    handler = daemon.directory / "handler"
    tests = str(Path(fake_report.__file__).parent)
    handler.write_text(HANDLER.format(python=sys.executable, tests=tests, cores=daemon.cores), encoding="utf-8")
    handler.chmod(0o755)
    name = f"collector-test-{os.getpid()}"
    with segment(name, 1 << 20, {4096: b"evidence"}) as path, core_pattern(f"|{handler} %P %s"):
        child = subprocess.Popen([sys.executable, "-c", CRASH, path])
        assert child.wait() == -11
        (manifest,) = wait_for(daemon.incidents, "incident")
    (marker,) = manifest["markers"]
    exe = os.path.realpath(sys.executable)
    assert (marker["process"]["pid"], marker["signal"], marker["exe"]) == (child.pid, 11, exe)
    assert {step: record["status"] for step, record in steps_of(manifest).items()} == {
        "memory": "ok", "core": "ok", "segments": "ok",
    }  # fmt: skip
    incident = daemon.archive / manifest["id"]
    core = json.loads((incident / "core/core.json").read_bytes())
    assert (core["pid"], core["signal"]["fault_address"]) == (child.pid, "0x1234")
    assert b"evidence" in (incident / "segments/segments/0001").read_bytes()


def test_apport_report_by_an_enemy_costs_the_daemon_nothing(daemon_factory: Callable[..., Daemon]) -> None:
    """4 GiB without a line break, endless keys, a bomb: each is its owner's incident, and the daemon goes on."""
    daemon = daemon_factory(CONFIG)
    bomb = fake_report.report(fake_report.values_of(0, uid=NOBODY), fake_report.packed(bytes(256 << 20)))
    hostile = {
        "sparse": b"ProblemType: Crash\nCoreDump: base64\n A",
        "keys": b"ProblemType: Crash\n" + b"a:\n" * 900_000,
        "bomb": bomb,
    }
    for number, (name, data) in enumerate(hostile.items(), start=1):
        made = daemon.directory / name
        made.write_bytes(data)
        if name == "sparse":
            os.truncate(made, 4 << 30)
        os.chown(made, NOBODY, -1)
        made.rename(daemon.cores / f"_usr_bin_{name}.0.crash")
        daemon.wait_for_incidents(number)
    for manifest in daemon.incidents():
        (marker,) = manifest["markers"]
        assert (marker.get("process"), marker["uid"]) == (None, NOBODY)
        assert steps_of(manifest)["core"]["status"] in {"failed", "truncated"}
    assert not daemon.failed()
