"""The README as a newcomer on an empty machine: each block as it is written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_tree import ROOT, SERVICE, DebianMachine, make_checkout
from machine import core_pattern

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.needs("mmdebstrap"),
]

README = (ROOT / "README.md").read_text(encoding="utf-8")
(NEEDED,) = re.findall(r"Debian: `(apt install [^`]+)`", README)
TRY, INSTALL, SET_UP = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LOOK = re.findall(r"^\$ (.*)$", README, re.MULTILINE)
AFTER_A_CRASH = ("--stacks", "debug")
CHECKOUT = "/root/collector"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def machine(debian: Path, tmp_path: Path) -> Iterator[DebianMachine]:
    """A clean machine with the checkout and the network; that may have a resolver and certificates of its own."""
    for path in ("/root", "/etc/ssl/certs"):
        (tmp_path / f"machine/upper{path}").mkdir(parents=True)
    for path in ("/etc/resolv.conf", CERTIFICATES):
        shutil.copy(path, tmp_path / f"machine/upper{path}")
    make_checkout(tmp_path / "machine/upper/root/collector")
    booted = DebianMachine(debian, tmp_path / "machine", network=True)
    try:
        yield booted
    finally:
        booted.close()


def enter(machine: DebianMachine, script: str) -> str:
    """Run *script* in the checkout, stopping at the first line that fails; return all that is printed."""
    outside = [f"{name}={value}" for name, value in os.environ.items() if name in ("PIP_CERT", "PIP_DEFAULT_TIMEOUT")]
    command = machine.entering("env", *outside, "sh", "-exc", f"cd {CHECKOUT}\n{script}")
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_readme_holds_on_an_empty_machine(machine: DebianMachine) -> None:
    """All but `make test`, which runs this; and what is said of crashes, of which there are none here."""
    enter(machine, f"apt-get -qq update\n{NEEDED.replace('install', 'install -y -qq', 1)}")
    assert "Look at it:" in enter(machine, re.sub(r"^make test.*\n", "", TRY, flags=re.MULTILINE))
    for line in LOOK:
        if not any(word in line for word in AFTER_A_CRASH):
            assert enter(machine, line)

    doctor = enter(machine, INSTALL.replace("apt install", "apt install -y -qq"))
    assert "answers in /run/collector" in doctor
    assert machine.show(SERVICE, "ActiveState") == "active"
    assert machine.run("collector", "debug", "--help").returncode == 0
    with core_pattern("core"):
        enter(machine, SET_UP)
        assert "/var/crash/core.%e" in Path("/proc/sys/kernel/core_pattern").read_text(encoding="utf-8")
