"""Errors as people and scripts see them: one line, an exit status, a JSON document, no traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import termios
from pathlib import Path

import pytest
from configuration import HOLD, MEMORY, config_of, write_config
from harness import COLLECTOR, as_nobody, held, open_up, wait_for

ARROW = "é→".encode()
"""As bytes: what a terminal sends, whatever the locale of the tests is."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, config_of(MEMORY, triggers=()))


def collector(
    config: Path, *arguments: str | bytes, nobody: bool = False, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    command = [*(as_nobody(config.parent) if nobody else []), *COLLECTOR, *arguments, "--config", str(config)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60)


def test_standard_output_that_fails_is_one_line(config: Path) -> None:
    """A full disk is exit status 73; a reader that closed the pipe gets no message."""
    collector(config, "run", "--now")
    with open("/dev/full", "w") as full:
        done = collector(config, "list", stdout=full.fileno())
    assert (done.returncode, done.stderr) == (73, "collector: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = collector(config, "show", "latest", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("verb", ["list", "show latest", "list --json", "config show", "doctor", "--version", "--help"])
def test_standard_output_that_is_closed_is_one_line(config: Path, verb: str) -> None:
    """No traceback, and no other file gets the output."""
    collector(config, "run", "--now")
    command = f"{shlex.join(COLLECTOR)} {verb} {'' if '--' in verb[:2] else f'--config {config}'}"
    done = subprocess.run(["sh", "-c", command + " >&-"], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (73, "collector: standard output is closed\n")
    assert subprocess.run(["sh", "-c", command + " <&- >&- 2>&-"], check=False).returncode == 73


def test_run_archives_with_all_streams_closed(config: Path) -> None:
    """Workers and artifacts do not get the descriptors of the streams; only the path cannot be printed."""
    command = f"exec {shlex.join(COLLECTOR)} run --now --config {config} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 73
    assert state_of(config) == "complete"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", rb"\xe9\u2192"),
        ("latin-1", b"\xe9" rb"\u2192"),
        ("cp1252:strict", b"\xe9" rb"\u2192"),
        ("", ARROW),
    ],
)
def test_output_that_the_encoding_lacks_is_escaped(config: Path, encoding: str, said: bytes) -> None:
    """Not a bug, and not another encoding than the one asked for."""
    collector(config, "run", "--now", "--reason", ARROW)
    command = [*COLLECTOR, "list", "--config", str(config)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"manual: " + said + b"  " in done.stdout


@pytest.mark.parametrize(("locale", "said"), [("C", rb"\xe9\u2192"), ("C.UTF-8", ARROW)])
def test_output_to_a_terminal_is_in_its_encoding(config: Path, locale: str, said: bytes) -> None:
    """On an 8-bit terminal, a byte of UTF-8 may begin a control sequence; a pipe gets UTF-8."""
    collector(config, "run", "--now", "--reason", ARROW)
    command = [*COLLECTOR, "list", "--config", str(config)]
    environment = {**os.environ, "LC_ALL": locale}
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    try:
        subprocess.run(command, env=environment, stdout=theirs, check=True)
        assert b"manual: " + said + b"  " in os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    piped = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    assert b"manual: " + ARROW + b"  " in piped


def test_json_errors_are_one_document(config: Path) -> None:
    """Scripts read the reason from standard output, people from standard error."""
    for arguments, status in ((("show", "bogus"), 73), (("status",), 69), (("run",), 64), (("list", "--bogus"), 64)):
        done = collector(config, *arguments, "--json")
        said = json.loads(done.stdout)
        assert done.returncode == said["exit_code"] == status
        assert said["error"] in done.stderr
        assert said.keys() == {"error", "hint", "exit_code"}


def test_bug_is_reported_with_its_traceback(config: Path) -> None:
    """An unexpected exception has exit status 70, and a traceback for the report."""
    broken = (
        "import sys, collector.cli.main as main, collector.cli.listing as listing\n"
        "listing.ArchiveReader = None\n"
        f"main.main(['list', '--json', '--config', {str(config)!r}])"
    )
    done = subprocess.run([COLLECTOR[0], "-c", broken], capture_output=True, text=True, check=False)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 70
    assert done.stderr.startswith("collector: a bug: TypeError")
    assert "Traceback" in done.stderr


@pytest.mark.root
def test_doctor_works_for_every_user(config: Path) -> None:
    """What it cannot read is a finding; missing permission is not reported as a missing kernel feature."""
    open_up(config.parent)
    done = collector(config, "doctor", "--json", nobody=True)
    found = {finding["about"]: finding["said"] for finding in json.loads(done.stdout)}
    assert found.keys() >= {"privileges", "memory", "archive", "cores", "daemon"}
    here = collector(config, "doctor", "--json").stdout
    assert ("statx" in done.stdout) == ("statx" in here)


@pytest.mark.root
def test_denied_is_77_and_says_who_may(config: Path) -> None:
    """The archive and the daemon are root's; another user asks."""
    open_up(config.parent)
    collector(config, "run", "--now")
    (config.parent / "run").mkdir(mode=0o700)
    archive, other = str(config.parent / "archive"), str(config.parent / "none/yet")
    for arguments in (
        ("list",),
        ("run", "--now"),
        ("run", "--now", "--archive", other),
        ("status",),
        ("list", "--archive", archive),
    ):
        done = collector(config, *arguments, nobody=True)
        assert done.returncode == 77, (arguments, done.stderr)
        assert "hint: run it as root (sudo)" in done.stderr
        assert "Traceback" not in done.stderr


def test_killed_run_is_shown_and_sealed_by_the_next(config: Path) -> None:
    """Without a daemon, too: `list`, `show` and `doctor` report it until the next run seals it."""
    fifo = config.parent / "hold"
    os.mkfifo(fifo)
    once = config.read_text()
    write_config(config.parent, config_of(HOLD, MEMORY, triggers=()))
    command = [*COLLECTOR, "run", "--now", "--config", str(config)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with held(fifo):
        assert state_of(config) == "running"
        assert collector(config, "doctor").stdout.count("unfinished") == 0
        run.kill()
        run.communicate()
    wait_for(lambda: state_of(config) == "unfinished", "unfinished incident")
    shown = collector(config, "show", "latest")
    assert (shown.returncode, "unfinished" in shown.stdout) == (0, True), shown.stderr
    assert "of a run that was killed" in collector(config, "doctor").stdout
    config.write_text(once)
    following = collector(config, "run", "--now")
    assert following.returncode == 0
    assert "which a killed run left unfinished" in following.stderr
    states = [one["state"] for one in json.loads(collector(config, "list", "--json").stdout)["incidents"]]
    assert states == ["interrupted", "complete"]


def state_of(config: Path) -> str:
    """Return the state of the only incident."""
    (one,) = json.loads(collector(config, "list", "--json").stdout)["incidents"]
    return str(one["state"])


def test_command_without_an_interpreter_beside_it_says_how_to_install_it(tmp_path: Path) -> None:
    """`pip --user` and `pip --prefix` put it where no python3 is; the shell would name a missing file and no remedy."""
    script = tmp_path / "collector"
    script.write_text((Path(__file__).parents[2] / "scripts/collector").read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(["/bin/sh", script], capture_output=True, encoding="utf-8", check=False, timeout=60)
    remedy = "install it into a virtual environment, as its README says"
    assert (done.returncode, done.stderr) == (69, f"collector: there is no {tmp_path}/python3: {remedy}\n")
