"""`collector show` of services that crash, of which journal, core, cgroup and recorder are archived."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from harness import HERE, wait_for
from machine import core_pattern, need
from systemd_machine import COLLECTOR, UNITS, Machine

from collector.host.core_pattern_owner import has_coredump_socket

JOURNALD = Path("/lib/systemd/system")
SHIPPED = (HERE.parents[1] / "config/collector.yaml").read_text(encoding="utf-8")
HOOK = (
    (UNITS / "examples/notify-on-crash.conf").read_text(encoding="utf-8").replace("/usr/bin/collector", str(COLLECTOR))
)
SEGMENT = f"/dev/shm/engine.main-{os.getpid()}"
WAYS = ("null", "abort", "overflow", "bus", "threads")
PYTHON = "import sys, ctypes; print('loading orders', file=sys.stderr, flush=True); ctypes.string_at(0)"
RAISES = "orders = {}; print('reporting'); orders['price']"
EXITS = "echo starting; echo 'FATAL: cannot bind port 443: in use'; exit 3"
Show = Callable[[str], str]
pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("g++"),
    pytest.mark.skipif(not has_coredump_socket(os.uname().release), reason="needs Linux 6.17"),
]


def service(command: str) -> str:
    return f"[Service]\nLimitCORE=infinity\nExecStart={command}\n"


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Show]:
    """Starts a unit, which crashes, and returns the screen of its incident."""
    need("root")
    directory = Path(tempfile.mkdtemp(prefix="show-", dir="/tmp"))
    config, runtime = directory / "collector.yaml", directory / "run"
    runtime.mkdir(mode=0o700)
    document = yaml.safe_load(SHIPPED) | {"runtime": {"directory": str(runtime)}}
    document["triggers"] = [
        {"id": "held", "type": "kernel_cores", "pipeline": "crash", "register": False},
        {"id": "told", "type": "notify", "pipeline": "crash"},
    ]
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    names = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
    units = {name: (JOURNALD / name).read_text(encoding="utf-8") for name in names}
    units["systemd-journald.service"] = units["systemd-journald.service"].replace("systemd-journald-audit.socket", "")
    units["collector.service.d/test.conf"] = (
        f"[Service]\nExecStart=\nExecStart=/usr/bin/collector daemon --config {config}\n"
    )
    engine = directory / "engine"
    units |= {f"engine-{way}.service": service(f"{engine} {way} {SEGMENT}") for way in WAYS}
    units["orders.service"] = service(f'/usr/bin/python3 -c "{PYTHON}"')
    units["reports.service"] = service(f'/usr/bin/python3 -c "{RAISES}"')
    units["gateway.service"] = service(f'/bin/sh -c "{EXITS}"')
    for name in ("reports", "gateway"):
        units[f"{name}.service.d/hook.conf"] = HOOK.replace("collector notify", f"collector notify --config {config}")
    try:
        subprocess.run(["g++", "-O1", "-g", "-pthread", "-o", engine, HERE / "engine.cpp"], check=True)
        with core_pattern(f"@@{runtime}/cores.sock"):
            machine = Machine(tmp_path_factory.mktemp("machine"), units)
            try:
                assert machine.run("systemctl", "start", "systemd-journald.service").returncode == 0
                machine.run("systemctl", "log-target", "journal")
                yield lambda unit: _shown(machine, unit)
            finally:
                machine.run("systemctl", "stop", "collector.service")
                machine.close()
    finally:
        shutil.rmtree(directory)
        Path(SEGMENT).unlink(missing_ok=True)
        Path(f"{runtime}.core_pattern").unlink(missing_ok=True)


def _shown(machine: Machine, unit: str) -> str:
    machine.run("systemctl", "start", unit)

    def sealed() -> str | None:
        return next((one["id"] for one in machine.incidents() if unit in str(one["markers"])), None)

    incident = wait_for(sealed, f"incident of {unit}", 60.0)
    command = [COLLECTOR, "show", incident, "--archive", machine.archive]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    text = done.stdout.decode()
    print(text)
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    return " ".join(text.split())


def test_show_names_a_null_pointer(show: Show) -> None:
    """With the function, the recursion folded, and the unit's last error rather than its last line."""
    text = show("engine-null.service")
    assert "SIGSEGV at 0x0 (null pointer)" in text
    assert "where price_order (engine.cpp:21) < match_book (engine.cpp:26) \u00d74 < main (engine.cpp:" in text
    assert "unit engine-null.service" in text
    assert "said ERROR order 4711: symbol missing, matching anyway" in text
    assert "1 of 1 segments (1 MiB)" in text


def test_show_has_the_message_of_an_abort(show: Show) -> None:
    text = show("engine-abort.service")
    assert "SIGABRT (abort)" in text
    assert 'orders > 0 && "the book is never empty"' in text
    assert "where __assert_fail (assert.c:" in text
    assert "< check_book (engine.cpp:" in text
    assert "said" not in text


def test_show_names_a_stack_overflow(show: Show) -> None:
    text = show("engine-overflow.service")
    assert "(stack overflow)" in text
    assert re.search(r"where walk_levels \(engine.cpp:[0-9]+\) \u00d7256 or more", text)


def test_show_names_the_segment_that_was_truncated(show: Show) -> None:
    text = show("engine-bus.service")
    assert "SIGBUS at 0x" in text
    assert f"why access at byte 1048575 of {SEGMENT}, which is past its 4096 bytes" in text


def test_show_names_the_thread_among_many_that_crashed(show: Show) -> None:
    text = show("engine-threads.service")
    assert "price_order (engine.cpp:21) < match_book" in text
    assert "50 threads" in text


def test_show_of_a_python_program_has_what_it_said(show: Show) -> None:
    text = show("orders.service")
    assert "SIGSEGV at 0x0 (null pointer)" in text
    assert "said loading orders" in text


def test_show_of_a_python_program_has_its_exception(show: Show) -> None:
    """It is no crash to the kernel: the status says little, the last line of the traceback all."""
    text = show("reports.service")
    assert "] exit status 1 " in text
    assert "said python3: KeyError: 'price'" in text


def test_show_of_a_unit_that_exits_names_the_status(show: Show) -> None:
    """Without a core, the last words of the unit tell the cause."""
    text = show("gateway.service")
    assert text.startswith("gateway.service[")
    assert "] exit status 3 " in text
    assert "FATAL: cannot bind port 443: in use" in text
