"""The package under Debian's own kernel, on 2 GiB without swap: what no namespace shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from debian_tree import build, make_checkout
from harness import HERE
from machine import compiled
from virtual_machine import VirtualMachine, make_tree_with_kernel

pytestmark = [
    pytest.mark.root,
    pytest.mark.vm,
    pytest.mark.timeout(400),
    pytest.mark.needs("mmdebstrap", "qemu-system-x86_64", "gcc"),
]
MIB = 1 << 20
AVAILABLE_MIB = 150
"""What is left of 2 GiB while the gate is tried."""

BOOK_MIB = 256
BOOK_IS_FULL = f'test "$(stat -c %b /dev/shm/book)" = {BOOK_MIB << 11}'
SUFFERED = ("allocstall", "pgscan_direct", "pgscan_kswapd", "nr_dirtied")
UNITS = {
    "plain": "ExecStart=/usr/local/bin/plain null",
    "hog": "ExecStart=/usr/local/bin/hog eat\nMemoryMax=64M",
    "picky": "ExecStart=/usr/local/bin/picky exit",
    "held": "ExecStart=/usr/local/bin/held null",
    "book": f"ExecStart=/usr/local/bin/book book /dev/shm/book {BOOK_MIB}",
    "long": f"ExecStart=/usr/local/bin/long book /dev/shm/book {BOOK_MIB}",
}
"""Of a program each: budgets are those of programs."""

TOLD = "version: 1\ntriggers: [{id: told, type: notify, pipeline: brief}]\n"
HELD = "version: 1\ntriggers: [{id: held, type: kernel_cores, pipeline: crash}]\n"
SLOWLY = HELD + "copy: {rate: 4MiB/s}\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    scratch = tmp_path_factory.mktemp("vm")
    tree = scratch / "tree"
    make_tree_with_kernel(tree)
    install(tree, build(make_checkout(scratch / "checkout"))["deb"])
    program = compiled(HERE / "victim.c", scratch, "-g")
    for name, text in UNITS.items():
        shutil.copy(program, tree / "usr/local/bin" / name)
        unit = f"[Unit]\nOnFailure=collector-notify@%n.service\n[Service]\n{text}\n"
        (tree / f"etc/systemd/system/{name}.service").write_text(unit, encoding="utf-8")
    (tree / "etc/collector/conf.d").mkdir(exist_ok=True)
    (tree / "etc/collector/conf.d/told.yaml").write_text(TOLD, encoding="utf-8")
    machine = VirtualMachine(tree, scratch)
    yield machine
    machine.close()


def install(tree: Path, package: Path) -> None:
    """Install the package into *tree*, where no systemd runs."""
    inside = tree / "root" / package.name
    inside.write_bytes(package.read_bytes())
    subprocess.run(["chroot", tree, "dpkg", "--install", f"/root/{package.name}"], check=True)


def incidents(machine: VirtualMachine) -> list[dict[str, Any]]:
    """Return the manifests of sealed incidents, oldest first."""
    found = "/var/lib/collector/*Z-??????/manifest.json"
    texts = machine.shell(f"for path in {found}; do test ! -e $path || {{ cat $path; printf '\\0'; }}; done")
    return [json.loads(text) for text in texts.split("\0") if text]


def next_incident(
    machine: VirtualMachine, known: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]
) -> Any:
    """Wait for an incident that was not *known*."""
    ids, end = {manifest["id"] for manifest in known}, time.monotonic() + 120
    while time.monotonic() < end:
        for manifest in incidents(machine):
            if manifest["id"] not in ids and wanted(manifest):
                return manifest
        time.sleep(1)
    return pytest.fail(machine.run("journalctl", "-u", "collector", "--no-pager", "-n", "50"))


def of_unit(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda manifest: f"{name}.service" in json.dumps(manifest["markers"])


def configure(machine: VirtualMachine, text: str) -> None:
    machine.write("/etc/collector/conf.d/test.yaml", text)
    machine.run("systemctl", "reload", "collector")


def start(machine: VirtualMachine, unit: str) -> list[dict[str, Any]]:
    """Start a unit; return what was archived before."""
    before = incidents(machine)
    machine.run("systemctl", "start", "--no-block", unit)
    return before


def show(machine: VirtualMachine, manifest: dict[str, Any]) -> str:
    """Return the screen of an incident."""
    screen = machine.run("collector", "show", manifest["id"])
    print(screen)
    return screen


def test_three_services_that_end_badly_are_three_incidents_that_name_unit_and_cause(machine: VirtualMachine) -> None:
    causes = {"plain": "SIGSEGV (null pointer)", "hog": "out of memory", "picky": "exit"}
    found = {}
    for name in causes:
        before = start(machine, name)
        found[name] = next_incident(machine, before, of_unit(name))
    for name, cause in causes.items():
        screen = show(machine, found[name])
        assert f"{name}.service" in screen
        assert cause in screen
    time.sleep(8)
    assert len(incidents(machine)) == len(causes)


def said(before: dict[str, int], after: dict[str, int]) -> str:
    return ", ".join(f"{name} {after[name] - count}" for name, count in before.items())


def leave(machine: VirtualMachine, mib: int) -> None:
    """Fill ``/dev/shm`` until *mib* are available."""
    machine.shell(f"""
        mount -o remount,size=100% /dev/shm
        available() {{ sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; }}
        while [ $(( $(available) / 1024 )) -gt {mib + 8} ]; do head -c 8M /dev/zero >>/dev/shm/filler; done
    """)


def test_crash_is_held_by_a_handler(machine: VirtualMachine) -> None:
    """Before Linux 6.17 the kernel starts a program for each crash, which passes its pipe on."""
    configure(machine, HELD)
    machine.wait_for("grep -q '^|' /proc/sys/kernel/core_pattern")
    before = start(machine, "held")
    manifest = next_incident(machine, before, of_unit("held"))
    assert "SIGSEGV at 0x0 (null pointer)" in show(machine, manifest)
    assert manifest["state"] == "complete"


def test_segment_is_archived_with_150_mib_available_and_nobody_stalls(machine: VirtualMachine) -> None:
    before = start(machine, "book")
    machine.wait_for(BOOK_IS_FULL)
    leave(machine, AVAILABLE_MIB)
    memory = machine.counters("/proc/meminfo", ["MemAvailable:"])
    suffered = machine.counters("/proc/vmstat", SUFFERED)
    machine.run("systemctl", "kill", "-s", "USR1", "book")
    manifest = next_incident(machine, before, of_unit("book"))
    after = machine.counters("/proc/vmstat", SUFFERED)
    print(f"{memory['MemAvailable:'] // 1024} MiB available:", said(suffered, after))
    show(machine, manifest)
    assert manifest["state"] == "complete"
    (step,) = [step for step in manifest["steps"] if step["id"] == "segments"]
    (copy,) = [artifact for artifact in step["artifacts"] if artifact.get("source") == "/dev/shm/book"]
    machine.run("cmp", "/dev/shm/book", f"/var/lib/collector/{manifest['id']}/{copy['path']}")
    before_cp = machine.counters("/proc/vmstat", SUFFERED)
    machine.run("cp", "/dev/shm/book", "/var/tmp/copy")
    print("cp:", said(before_cp, machine.counters("/proc/vmstat", SUFFERED)))
    machine.shell("rm /dev/shm/book /dev/shm/filler /var/tmp/copy")
    assert after["allocstall"] == suffered["allocstall"]


def test_incident_survives_a_reboot_in_its_middle(machine: VirtualMachine) -> None:
    configure(machine, SLOWLY)
    before = start(machine, "long")
    machine.wait_for(BOOK_IS_FULL)
    machine.run("systemctl", "kill", "-s", "USR1", "long")
    machine.wait_for("find /var/lib/collector/*.partial -path '*segments*' -size +9M | grep -q .")
    machine.reboot()
    manifest = next_incident(machine, before, of_unit("long"))
    print(json.dumps(manifest)[:3000])
    show(machine, manifest)
    assert manifest["state"] == "interrupted"
    assert not machine.shell("ls -d /var/lib/collector/*.partial 2>/dev/null || true")
    machine.run("collector", "verify", manifest["id"])
