"""The command line as people and scripts use it: exit statuses, one JSON document, errors with hints."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from configuration import MEMORY, config_of, write_config
from copying_fixtures import segment
from harness import COLLECTOR, wait_for
from machine import core_pattern

NOTHING = "{id: nothing, collector: files, with: {paths: [/does/not/exist]}}"
CORES = "{id: cores, type: core_files, paths: [/var/lib/systemd/coredump, /var/crash/no/such], pipeline: crash}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, config_of(MEMORY, NOTHING, triggers=(), archive={"keep": {"count": 2}}))


def collector(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COLLECTOR, *arguments, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """With --json, standard output is one document and nothing else."""
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_run_prints_where_to_look(config: Path) -> None:
    """Standard output is the incident's path and nothing else."""
    done = collector(config, "run", "--now", "--only", "memory")
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "manifest.json").is_file()


def test_list_show_and_verify_agree_on_an_incident(config: Path) -> None:
    """Three readers of one manifest."""
    made = document(collector(config, "run", "--now", "--json", "--only", "memory", "--reason", "why not"))
    listed = document(collector(config, "list", "--json"))["incidents"]
    shown = document(collector(config, "show", "latest", "--json"))
    verified = document(collector(config, "verify", "--json"))
    assert [one["id"] for one in listed] == [made["incident"]] == [shown["id"]] == list(verified["incidents"])
    assert listed[0]["reason"] == shown["markers"][0]["reason"] == "why not"
    assert verified["ok"]
    assert all(finding["checked"] for finding in verified["incidents"][made["incident"]])


def test_run_by_hand_lacks_nothing_that_does_not_apply_to_it(config: Path, tmp_path: Path) -> None:
    """Without a PID there is no crashed process: complete, with reasons, but no success; a missing log is missing."""
    steps = [f"{{id: {name}, collector: {name}}}" for name in ("process", "core", "shm")]
    write_config(tmp_path, config_of(*steps, NOTHING, triggers=()))
    done = collector(config, "run", "--now", "--json", "--only", "process", "--only", "core", "--only", "shm")
    made = document(done)
    assert (done.returncode, made["state"]) == (3, "complete")
    assert {step["status"] for step in made["steps"]} == {"not_applicable"}
    assert all(step["reason"] for step in made["steps"])
    assert collector(config, "list", "--no-legend").stdout.endswith("  -\n"), "nothing is missing"
    assert "not_applicable" in collector(config, "show", "--steps").stdout
    made = document(collector(config, "run", "--now", "--json"))
    assert made["state"] == "incomplete"
    assert made["steps"][-1]["reason"] == "no file matches /does/not/exist"
    missing = "nothing: truncated: no file matches /does/not/exist\n"
    assert collector(config, "list", "--no-legend").stdout.endswith(missing)


def test_show_names_the_steps_that_their_conditions_left_out(config: Path, tmp_path: Path) -> None:
    """In the manifest, in `show` and while it runs; manifests of earlier releases, which lack the key, are read."""
    write_config(tmp_path, config_of(MEMORY, "{id: extra, collector: dmesg, when: {signal: [SEGV]}}", triggers=()))
    done = collector(config, "run", "--now")
    assert (done.returncode, "  extra            left out: signal is unknown, not SIGSEGV\n" in done.stderr) == (
        0,
        True,
    )
    manifest = document(collector(config, "show", "latest", "--json"))
    assert manifest["left_out"] == [{"id": "extra", "reason": "signal is unknown, not SIGSEGV"}]
    assert "\nleft out: extra: signal is unknown, not SIGSEGV\n" in collector(config, "show", "--steps").stdout
    (path,) = (tmp_path / "archive").glob("*Z-??????/manifest.json")
    path.write_text(json.dumps({key: value for key, value in manifest.items() if key != "left_out"}))
    assert document(collector(config, "show", "latest", "--json"))["left_out"] == []


def test_verify_finds_a_changed_artifact(config: Path) -> None:
    """A changed byte changes the digest; a missing file is reported, too."""
    made = document(collector(config, "run", "--now", "--json", "--only", "memory"))
    incident = Path(made["path"])
    changed = incident / "memory/proc/version"
    changed.write_bytes(changed.read_bytes()[::-1])
    (incident / "memory/proc/loadavg").unlink()
    done = collector(config, "verify")
    assert done.returncode == 73
    assert "memory/proc/version has digest" in done.stdout
    assert "memory/proc/loadavg No such file" in done.stdout
    assert "BAD  2 of " in done.stdout
    (incident / "manifest.json").write_text("{")
    assert "BAD  the manifest cannot be read" in collector(config, "verify").stdout


def test_prune_keeps_what_the_configuration_keeps(config: Path) -> None:
    """The oldest incident beyond `count` is deleted; a dry run deletes nothing."""
    for _ in range(2):
        collector(config, "run", "--now", "--only", "memory")
    first, second = (one["id"] for one in document(collector(config, "list", "--json"))["incidents"])
    config.write_text(config.read_text().replace("count: 2", "count: 1"))
    assert document(collector(config, "prune", "--dry-run", "--json"))["incidents"] == [first]
    assert first in collector(config, "list").stdout
    assert "1 of 2 incidents" in collector(config, "prune").stderr
    assert "nothing to delete" in collector(config, "prune", "--dry-run").stderr
    assert [one["id"] for one in document(collector(config, "list", "--json"))["incidents"]] == [second]


def test_dry_run_writes_nothing(config: Path, tmp_path: Path) -> None:
    """It shows the steps, their limits and what the gate decides now."""
    plan = document(collector(config, "run", "--dry-run", "--json"))
    assert [step["id"] for step in plan["steps"]] == ["memory", "nothing"]
    assert plan["steps"][0]["verdict"]["decision"] == "proceed"
    assert not (tmp_path / "archive").exists()
    when_crashed = "{id: nothing, collector: dmesg, when: {comm: [crashed]}}"
    write_config(tmp_path, config_of("{id: memory, collector: proc_files, timeout: 10m}", when_crashed, triggers=()))
    told = collector(config, "run", "--dry-run").stdout
    assert "up to 10m," in told
    assert "does not apply: a run by hand cannot tell the comm" in told


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("run",), 64, "--now"),
        (("run", "--now", "--only", "bogus"), 64, "its steps are"),
        (("run", "--now", "--pipeline", "bogus"), 64, "there are crash"),
        (("run", "--now", "--pid", "4194304"), 64, "no process"),
        (("run", "--bogus"), 64, "bogus"),
        (("show", "2020"), 64, "collector list"),
        (("status",), 69, "is collector.service running"),
    ],
)
def test_errors_say_what_to_do(config: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    """An exit status from sysexits.h and one sentence; never a traceback."""
    collector(config, "run", "--now", "--only", "memory")
    done = collector(config, *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_configuration_is_refused_with_its_place(config: Path) -> None:
    """Exit status 78, file:line:col."""
    config.write_text("version: 1\npipelines: {crash: {steps: [{id: a, collector: bogus}]}}\n")
    done = collector(config, "run", "--now")
    assert done.returncode == 78
    assert f"{config}:2:" in done.stderr


def test_archive_on_tmpfs_is_refused(config: Path) -> None:
    """Writing there would use the memory that is short; nothing is left behind."""
    done = collector(config, "run", "--now", "--archive", f"/dev/shm/archive-{os.getpid()}")
    assert done.returncode == 73
    assert "tmpfs" in done.stderr
    assert not os.path.exists(f"/dev/shm/archive-{os.getpid()}")


def test_doctor_reports_every_area_with_hints(config: Path) -> None:
    """Everything that is bad has a hint."""
    findings = document(collector(config, "doctor", "--json"))
    assert {finding["about"] for finding in findings} >= {"privileges", "memory", "cores", "daemon"}
    assert all(finding["hint"] for finding in findings if finding["level"] == "bad")


def test_run_shows_the_running_step_on_a_terminal_only(config: Path) -> None:
    """On a line that the next one replaces; a pipe gets whole lines without control characters."""
    ours, theirs = pty.openpty()
    arguments = [*COLLECTOR, "run", "--now", "--only", "memory", "--config", str(config)]
    subprocess.run(arguments, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"\r\033[Kcollecting" in shown
    assert b"\r\033[Kcomplete: " in shown
    assert "\033" not in collector(config, "run", "--now", "--only", "memory").stderr


def test_incidents_are_found_despite_mistakes_in_the_configuration(config: Path) -> None:
    """Reading still works; `prune`, which deletes, insists on a valid file."""
    collector(config, "run", "--now", "--only", "memory")
    config.write_text(config.read_text() + "bogus: 1\n")
    for arguments in (("list",), ("show", "latest"), ("verify",)):
        done = collector(config, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert collector(config, "prune").returncode == 78


def test_show_says_what_to_do_about_a_step(config: Path, tmp_path: Path) -> None:
    """The hint stands below the reason."""
    write_config(tmp_path, config_of("{id: tool, collector: command, with: {argv: [/no/such/tool]}}", triggers=()))
    assert collector(config, "run", "--now", "--only", "tool").returncode == 3
    assert "\n  hint   is it installed, and executable?\n" in collector(config, "show", "--steps").stdout


@pytest.mark.root
def test_doctor_doubts_a_program_that_takes_the_cores(config: Path, tmp_path: Path) -> None:
    """One that does not exist gets none; systemd-coredump is known to leave them where the daemon watches."""
    write_config(tmp_path, config_of(MEMORY, triggers=(CORES,)))
    handler = tmp_path / "systemd-coredump"
    handler.touch(0o755)
    with core_pattern("|/usr/share/apport/none %p"):
        (cores,) = [one for one in document(collector(config, "doctor", "--json")) if one["about"] == "cores"]
    assert cores["level"] == "warning"
    assert "does not exist" in cores["said"]
    with core_pattern(f"|{handler} %P"):
        (cores,) = [one for one in document(collector(config, "doctor", "--json")) if one["about"] == "cores"]
    assert cores["level"] == "ok"
    with core_pattern("/var/crash/no/such/core.%p"):
        (cores,) = [one for one in document(collector(config, "doctor", "--json")) if one["about"] == "cores"]
    assert "does not exist" in cores["said"]


def test_run_says_so_when_no_step_is_meant_for_it(config: Path, tmp_path: Path) -> None:
    """An empty incident that calls itself complete would be the latest one from then on."""
    write_config(tmp_path, config_of("{id: memory, collector: proc_files, when: {signal: [SEGV]}}", triggers=()))
    done = collector(config, "run", "--now", "--only", "memory")
    assert done.returncode == 64
    assert "memory" in done.stderr
    assert not list((tmp_path / "archive").glob("*Z-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_cuts_a_copy_short_and_seals_it_when_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    """Ctrl-C, or a dropped ssh session: the copy ends at its next chunk, and what is there is archived."""
    with segment(400 << 20) as source:
        step = f"{{id: segments, collector: shm, timeout: 5m, with: {{segments: [{source.name}]}}}}"
        config = write_config(tmp_path, config_of(step, triggers=(), copy={"rate": "4MiB/s"}))
        running = subprocess.Popen(
            [*COLLECTOR, "run", "--now", "--json", "--config", str(config)], stdout=subprocess.PIPE
        )
        wait_for(lambda: list((tmp_path / "archive").glob("*/segments/segments/*.part")), "copy")
        running.send_signal(number)
        output, _ = running.communicate(timeout=60)
        assert running.returncode == 3
        (step,) = json.loads((Path(json.loads(output)["path"]) / "manifest.json").read_text())["steps"]
        assert step["status"] == "truncated"
        assert "the collector was stopped" in step["reason"]
        (copy,) = (tmp_path / "archive").glob("*/segments/segments/0001")
        data = copy.read_bytes()
        with source.open("rb") as file:
            assert data == file.read(len(data))
        assert len(data) < 400 << 20
