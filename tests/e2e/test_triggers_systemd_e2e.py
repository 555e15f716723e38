"""A real systemd, in namespaces of its own, whose unit fails: OnFailure= and ExecStopPost= tell the daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon, wait_for

UNITS = Path(__file__).parents[2] / "systemd"
SYSTEMD = "/lib/systemd/systemd"
UNIFIED = next(
    (path for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(f"{path}/cgroup.procs")), ""
)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(SYSTEMD), reason="systemd is not installed"),
    pytest.mark.skipif(not UNIFIED, reason="needs a cgroup2 hierarchy"),
]

CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%}}
pressure: {{floor: 64MiB, psi_full: 100%}}
runtime: {{directory: {runtime}}}
triggers:
  - {{id: told, type: notify, pipeline: light}}
pipelines:
  light: {{steps: [{{id: memory, collector: proc_files}}]}}
"""
# It sees no unit but those of the test: nothing of the machine's own is started, cleaned or mounted. At its start
# systemd raises fs.nr_open, fs.file-max and net.unix.max_dgram_qlen: not on this machine.
BOOT = """
set -e
echo $$ > {cgroup}/cgroup.procs
exec unshare --pid --mount --net --uts --ipc --cgroup --fork --kill-child --mount-proc sh -ec '
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /run
mkdir /run/collector /run/units
mount --bind {runtime} /run/collector
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp -r {units}/. /run/units
export SYSTEMD_UNIT_PATH=/run/units container=other
exec {systemd} --system --unit=test.target --log-target=console --show-status=0'
"""
PLAIN = "[Unit]\nDefaultDependencies=no\n"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = Path(UNIFIED, f"collector-test-{os.getpid()}")
    path.mkdir()
    yield path
    for _ in range(100):
        if _removed(path):
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} cannot be removed")


def _removed(path: Path) -> bool:
    """Remove the cgroups that systemd made, innermost first."""
    try:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("way", ["on_failure", "exec_stop_post"])
def test_systemd_tells_of_a_unit_that_failed(
    daemon_factory: Callable[..., Daemon], cgroup: Path, tmp_path: Path, way: str
) -> None:
    """The units as shipped, with the environment that systemd gives them; a unit that succeeds tells nothing."""
    daemon = daemon_factory(CONFIG)
    units = tmp_path / "units"
    units.mkdir()
    ours = f"{sys.executable} -m collector.cli.main"
    hook = "[Unit]\nOnFailure=collector-notify@%n.service\n"
    if way == "exec_stop_post":
        hook = (UNITS / "examples" / "notify-on-crash.conf").read_text().replace("/usr/bin/collector", ours)
    shutil.copy(UNITS / "collector-notify@.service", units)
    command = next(
        line for line in (units / "collector-notify@.service").read_text().splitlines() if "ExecStart=" in line
    )
    override = units / "collector-notify@.service.d"
    override.mkdir()
    # This Python may live below somebody's home.
    command = command.replace("/usr/bin/collector", ours)
    (override / "test.conf").write_text(f"{PLAIN}[Service]\nProtectHome=no\nExecStart=\n{command}\n")
    for name, action in (("engine", "kill -SEGV $$$$"), ("good", "true")):
        (units / f"{name}.service").write_text(f'{PLAIN}[Service]\nExecStart=/bin/sh -c "{action}"\n')
        (units / f"{name}.service.d").mkdir()
        (units / f"{name}.service.d" / "hook.conf").write_text(hook)
    (units / "test.target").write_text(f"{PLAIN}Wants=good.service engine.service\nAfter=good.service\n")
    script = BOOT.format(cgroup=cgroup, runtime=daemon.runtime, units=units, systemd=SYSTEMD)
    with open(tmp_path / "console", "wb") as console:
        boot = subprocess.Popen(["sh", "-c", script], stdout=console, stderr=console, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: daemon.incidents() or boot.poll() is not None, "incident, or an end of systemd")
        manifests = daemon.incidents()
    finally:
        boot.send_signal(signal.SIGKILL)
        boot.wait()
    assert manifests, (tmp_path / "console").read_text()
    (marker,) = manifests[0]["markers"]
    assert (marker["unit"], marker["signal"]) == ("engine.service", signal.SIGSEGV)
    assert len(manifests) == 1
