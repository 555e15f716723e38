"""The packages, built as a newcomer builds them, on a clean Debian 12 with a systemd of its own and without network."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_tree import SERVICE, DebianMachine, Overlay, build, make_checkout, run
from harness import wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.needs("mmdebstrap", "rpm", "mandoc", "zsh", "fish"),
]

CONFIG = "/etc/collector/collector.yaml"
MINE = "\n# mine\n"
SLOW_COPY = "version: 1\ncopy: {rate: 32MiB/s}\npressure: {wait: 0s}\n"
SEGMENT = 192 << 20
"""Bytes; six seconds at that rate."""

Built = tuple[dict[str, Path], dict[str, Path]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The first release, and a second one whose shipped configuration differs, from a checkout of somebody careful."""
    checkout = make_checkout(tmp_path_factory.mktemp("careful") / "checkout", umask=0o077)
    first = build(checkout, umask=0o077)
    with (checkout / "config/collector.yaml").open("a", encoding="utf-8") as file:
        file.write("# of the second release\n")
    return first, build(checkout, release=2, umask=0o077)


@pytest.fixture
def machine(debian: Path, tmp_path: Path) -> Iterator[DebianMachine]:
    booted = DebianMachine(debian, tmp_path / "machine")
    try:
        yield booted
    finally:
        booted.close()


@pytest.fixture
def overlay(debian: Path, tmp_path: Path) -> Iterator[Overlay]:
    made = Overlay(debian, tmp_path / "overlay")
    try:
        yield made
    finally:
        made.close()


def sealed(archive: Path) -> dict[str, str]:
    """Return the digest of each file of the finished incidents, by its path."""
    files = [path for path in archive.glob("*Z-??????/**/*") if path.is_file()]
    return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_packages_are_the_same_whoever_builds_them(built: Built, tmp_path: Path) -> None:
    """Another directory and another umask: the same bytes, so no path of the builder's and no mode of his checkout."""
    again = build(make_checkout(tmp_path / "elsewhere"))
    assert {form: path.read_bytes() == built[0][form].read_bytes() for form, path in again.items()} == {
        "deb": True,
        "rpm": True,
    }


def test_deb_loses_nothing_from_installation_to_purge(machine: DebianMachine, built: Built) -> None:
    """Install, install again, upgrade during a copy, watchdog, stop, downgrade, remove, install, purge."""
    old, new = (machine.give(one["deb"]) for one in built)
    machine.must("dpkg", "-i", old)
    assert machine.show(SERVICE, "ActiveState") == "active"
    assert machine.must("systemctl", "is-enabled", SERVICE).strip() == "enabled"
    assert machine.must("stat", "-c", "%a", "/var/crash").strip() == "1733"
    assert machine.run("collector", "run", "--now", "--reason", "first").returncode in (0, 3)
    first = sealed(machine.archive)
    assert first

    machine.write(CONFIG, machine.read(CONFIG) + MINE)
    edited = machine.read(CONFIG)
    machine.must("dpkg", "-i", old)
    assert machine.read(CONFIG) == edited

    # Upgraded in the middle of a copy; the new version of a file that is edited is put beside it.
    machine.write("/etc/collector/conf.d/slow.yaml", SLOW_COPY)
    machine.must("systemctl", "reload", SERVICE)
    machine.must("fallocate", "-l", str(SEGMENT), "/dev/shm/engine")
    copying = subprocess.Popen(
        machine.entering(
            "collector", "run", "--now", "--only", "segments", "--reason", "copy", "--pid", holder(machine)
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: [path for path in machine.archive.glob("*.partial/segments/**/*") if path.stat().st_size], "copy")
    before = machine.show(SERVICE, "MainPID")
    machine.must("dpkg", "--force-confold", "-i", new)
    copying.wait(timeout=150)
    assert machine.show(SERVICE, "MainPID") != before
    assert machine.read(CONFIG) == edited
    assert "second release" in machine.read(f"{CONFIG}.dpkg-dist")
    (copied,) = wait_for(lambda: machine.incidents()[1:], "sealed copy")
    assert copied["state"] == "complete"
    assert machine.run("collector", "verify").returncode == 0

    machine.write(f"/etc/systemd/system/{SERVICE}.d/watchdog.conf", "[Service]\nWatchdogSec=3s\n")
    machine.must("systemctl", "daemon-reload")
    machine.must("systemctl", "restart", SERVICE)
    machine.must("systemctl", "kill", "--kill-whom=main", "--signal=STOP", SERVICE)
    wait_for(lambda: machine.show(SERVICE, "NRestarts") == "1", "restart by the watchdog", 60)
    wait_for(lambda: machine.show(SERVICE, "ActiveState") == "active", "restarted service", 60)

    machine.must("systemctl", "stop", SERVICE)
    machine.must("dpkg", "--force-confold", "-i", old)  # what an administrator has stopped stays so
    assert machine.show(SERVICE, "ActiveState") == "inactive"
    machine.must("systemctl", "start", SERVICE)

    kept = sealed(machine.archive)
    assert first.items() <= kept.items()
    machine.must("dpkg", "-r", "crash-collector")
    assert machine.show(SERVICE, "ActiveState") == "inactive"
    assert machine.run("test", "-e", "/opt/collector").returncode == 1
    assert (machine.read(CONFIG), sealed(machine.archive)) == (edited, kept)

    machine.must("dpkg", "--force-confold", "-i", new)
    machine.must("rm", CONFIG)  # by hand: it stays away until it is asked for
    machine.must("dpkg", "-i", new)
    assert machine.run("test", "-e", CONFIG).returncode == 1
    assert machine.show(SERVICE, "ActiveState") == "active"
    machine.must("dpkg", "--force-confmiss", "-i", new)
    assert "second release" in machine.read(CONFIG)

    assert "/var/lib/collector are kept" in machine.must("dpkg", "-P", "crash-collector")
    assert machine.run("test", "-e", CONFIG).returncode == 1
    assert sealed(machine.archive) == kept


def holder(machine: DebianMachine) -> str:
    """Return the PID of a process on the machine that has the segment mapped."""
    code = "import mmap, time; f = open('/dev/shm/engine', 'r+b'); m = mmap.mmap(f.fileno(), 0); time.sleep(600)"
    machine.must("systemd-run", "--unit=engine", "python3.11", "-c", code)
    return machine.show("engine.service", "MainPID")


def test_deb_installs_where_no_systemd_runs(overlay: Overlay, built: Built) -> None:
    """In a chroot, as images are built: enabled for the first boot, not started; no bytecode is missing."""
    shutil.copy(built[0]["deb"], overlay.root / "root")
    done = overlay.run("dpkg", "-i", f"/root/{built[0]['deb'].name}")
    assert done.returncode == 0, done.stderr
    assert (overlay.root / f"etc/systemd/system/multi-user.target.wants/{SERVICE}").is_symlink()
    assert overlay.run("collector", "--version").returncode == 0
    files = [path for path in (overlay.root / "opt/collector").rglob("*") if not path.is_symlink()]
    assert [path for path in files if path.stat().st_mode & 0o044 != 0o044] == []
    sources = [path for path in files if path.suffix == ".py"]
    assert len(sources) > 400
    assert [path for path in sources if not (path.parent / f"__pycache__/{path.stem}.cpython-311.pyc").exists()] == []
    assert overlay.run("dpkg", "-P", "crash-collector").returncode == 0
    assert not (overlay.root / "opt/collector").exists()


def test_man_pages_and_completion_are_sound(overlay: Overlay, built: Built) -> None:
    """mandoc has nothing to complain of; each shell accepts its file, and each verb is described."""
    subprocess.run(["dpkg-deb", "-x", built[0]["deb"], overlay.root / "x"], check=True)
    share = overlay.root / "x/usr/share"
    pages = sorted(share.glob("man/man*/*.gz"))
    assert [page.name for page in pages] == ["collector.1.gz", "collector.yaml.5.gz"]
    for page in pages:
        text = subprocess.run(["gzip", "-dc", page], check=True, capture_output=True).stdout
        lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning"], input=text, capture_output=True, check=False)
        assert lint.stdout == b""
    completion = {
        "bash": share / "bash-completion/completions/collector",
        "zsh": share / "zsh/vendor-completions/_collector",
        "fish": share / "fish/vendor_completions.d/collector.fish",
    }
    for shell, file in completion.items():
        assert run(shell, "-n", str(file)).returncode == 0


def test_deb_has_the_pages_that_the_program_refers_to(tmp_path: Path, built: Built) -> None:
    """ "docs/operations.md" in a hint must be a file of the machine."""
    subprocess.run(["dpkg-deb", "-x", built[0]["deb"], tmp_path], check=True)
    site = tmp_path / "opt/collector/lib/python3.11/site-packages/collector"
    told = [*site.rglob("*.py"), tmp_path / CONFIG[1:], *tmp_path.glob("usr/lib/systemd/system/*")]
    pages = {page for path in told for page in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))}
    assert "docs/operations.md" in pages
    assert [page for page in pages if not (tmp_path / "usr/share/doc/crash-collector" / page).exists()] == []


def test_rpm_keeps_what_is_edited_and_stops_the_service_when_removed(
    overlay: Overlay, built: Built, tmp_path: Path
) -> None:
    """In a root of its own, with rpm's scripts, where `systemctl` only says what it was asked to do."""
    (overlay.root / "run/systemd/system").mkdir(parents=True)
    asked = overlay.root / "asked"
    asked.touch()
    systemctl = overlay.root / "usr/bin/systemctl"
    systemctl.unlink()
    systemctl.write_text('#!/bin/sh\necho "$*" >> /asked\n')
    systemctl.chmod(0o755)

    def rpm(*options: str | Path) -> list[str]:
        """Run rpm; return what its scripts asked systemctl since the last time."""
        asked.write_text("")
        done = run("rpm", "--root", str(overlay.root), "--nodeps", *map(str, options))
        assert done.returncode == 0, done.stderr
        return asked.read_text().splitlines()

    first, second = (one["rpm"] for one in built)
    installing = rpm("-i", first)
    assert installing == [f"--no-reload preset {SERVICE}", "daemon-reload"]
    assert overlay.run("collector", "--version").returncode == 0
    assert run("rpm", "--root", str(overlay.root), "-V", "--nodeps", "crash-collector").stdout == ""
    config = overlay.root / CONFIG[1:]
    config.write_text(config.read_text() + MINE)
    edited = config.read_text()
    (overlay.root / "var/lib/collector").mkdir()
    assert f"try-restart {SERVICE}" in rpm("-U", second)
    assert config.read_text() == edited
    assert "second release" in config.with_suffix(".yaml.rpmnew").read_text()
    removing = rpm("-e", "crash-collector")
    assert removing[0] == f"stop {SERVICE} collector-core-pattern-restore.service collector-core-pattern.path"
    assert removing[1:] == [f"--no-reload disable {SERVICE}", "daemon-reload"]
    assert config.with_suffix(".yaml.rpmsave").read_text() == edited
    assert not (overlay.root / "opt/collector").exists()
    assert (overlay.root / "var/lib/collector").exists()
    needs = run("rpm", "-qp", "--requires", str(first)).stdout.splitlines()
    assert {"/usr/bin/python3.11", "glibc >= 2.28"} <= set(needs)
