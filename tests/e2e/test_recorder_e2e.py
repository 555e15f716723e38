"""The flight recorder in a real daemon: what was before a crash is in its incident."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from configuration import HOLD, MEMORY, config_of
from copying_fixtures import file_system
from harness import COLLECTOR, Daemon, held, make_daemon, run_now, status_of, steps_of, wait_for
from machine import need

from collector.daemon.messages import Watched
from collector.daemon.requests import watched_of

MIB = 1 << 20
STORM_BYTES = 128 * MIB
RECORDER = {"period": "500ms", "keep": "10m"}
CONFIG = config_of(MEMORY, triggers=(), recorder=RECORDER)


def archived(daemon: Daemon, incident: str, name: str) -> tuple[dict[str, Any], list[list[Any]]]:
    """Return the first line and the rows of a file of the recorder."""
    lines = (daemon.archive / incident / "recorder" / name).read_bytes().splitlines()
    head, *rows = map(json.loads, lines)
    return head, rows


def column(found: tuple[dict[str, Any], list[list[Any]]], name: str) -> list[Any]:
    head, rows = found
    at = [each["name"] for each in head["columns"]].index(name)
    return [row[at] for row in rows]


def private(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def own(pid: int) -> int:
    """Return what is resident of a process's memory that no file has: how much of its files is, changes by chance."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def watched(daemon: Daemon) -> Watched:
    return watched_of(str(daemon.runtime), 0.0)


def incident_of(daemon: Daemon) -> dict[str, Any]:
    """Run an incident; return its manifest."""
    reply = run_now(daemon)
    assert reply.exit_code == 0, reply
    return daemon.incidents()[-1]


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose archive is on an ext4 of its own."""
    with file_system(tmp_path, "ext4") as disk:
        daemon = make_daemon(tmp_path, 0, CONFIG.replace("$archive", str(disk / "archive")))
        daemon.archive = disk / "archive"
        try:
            yield daemon
        finally:
            daemon.kill()


def test_recorder_shows_a_cp_storm_before_the_crash(on_disk: Daemon, tmp_path: Path) -> None:
    """Which disk was written to, and when, though it is long over."""
    need("root")
    daemon = on_disk
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB) * (STORM_BYTES // MIB))
    daemon.start()
    before_s = wait_for(lambda: watched(daemon).seconds, "first row")[-1].at_s
    target = daemon.archive.parent / "copy"
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)
    after_s = wait_for(lambda: [row for row in watched(daemon).seconds if row.at_s > before_s][2:], "rows")[-1].at_s
    manifest = incident_of(daemon)
    head, rows = found = archived(daemon, manifest["id"], "recorder.jsonl")
    device = os.stat(daemon.archive).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    assert head["disks"][number].startswith("loop")
    at = [each["name"] for each in head["disk_columns"]].index("written")
    written = {row[0]: disk[at] * 512 for row in rows for disk in row[-1] if disk[0] == number}
    assert max(written.values()) - written[before_s] >= STORM_BYTES
    assert before_s in column(found, "boottime")
    assert after_s in column(found, "boottime")
    assert rows[0][-1][0][0] == number, "the archive's disk comes first"
    assert manifest["state"] == "complete"
    assert steps_of(manifest)["recorder"]["status"] == "ok"


def test_recorder_archives_the_seconds_of_the_incident(daemon_factory: Callable[..., Daemon]) -> None:
    """With what the collector itself wrote, and whoever changes it is found out."""
    bulk = "{id: bulk, collector: files, with: {paths: [$directory/bulk], max_bytes: 64MiB}}"
    daemon = daemon_factory(config_of(MEMORY, bulk, triggers=(), recorder=RECORDER), start=False)
    (daemon.directory / "bulk").write_bytes(os.urandom(4 * MIB))
    daemon.start()
    manifest = incident_of(daemon)
    history = archived(daemon, manifest["id"], "recorder.jsonl")
    during = archived(daemon, manifest["id"], "during.jsonl")
    assert column(during, "own_written")[-1] - column(during, "own_written")[0] >= 4 * MIB
    assert column(during, "own_cpu")[-1] > column(during, "own_cpu")[0]
    assert column(history, "boottime")[-1] <= column(during, "boottime")[1]
    assert column(during, "own_incidents")[-1] == 1
    names = {artifact["path"] for artifact in steps_of(manifest)["recorder"]["artifacts"]}
    assert names == {f"recorder/{name}.jsonl" for name in ("recorder", "top", "during")}
    assert daemon.run("verify", "--archive", str(daemon.archive)).returncode == 0
    path = daemon.archive / manifest["id"] / "recorder/during.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"bytes"', b'"Bytes"'))
    assert daemon.run("verify", "--archive", str(daemon.archive)).returncode != 0


def test_recorder_history_outlasts_a_long_incident(daemon_factory: Callable[..., Daemon]) -> None:
    """What came before is read at the beginning: at the end, the ring holds only the incident, and not all of it."""
    recorder = {"period": "500ms", "keep": "1s"}
    daemon = daemon_factory(config_of(MEMORY, HOLD, triggers=(), recorder=recorder), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    before_s = wait_for(lambda: watched(daemon).seconds, "first row")[-1].at_s
    with subprocess.Popen([*COLLECTOR, "run", "--now", "--config", daemon.config], stdout=subprocess.DEVNULL) as run:
        with held(fifo):
            wait_for(lambda: watched(daemon).seconds[0].at_s > before_s + 2, "ring full of the incident")
        assert run.wait(30) == 3
    manifest = daemon.incidents()[-1]
    step = steps_of(manifest)["recorder"]
    assert (manifest["state"], step["status"]) == ("incomplete", "truncated")
    assert "took longer than the recorder goes back" in step["reason"]
    history = column(archived(daemon, manifest["id"], "recorder.jsonl"), "boottime")
    during = column(archived(daemon, manifest["id"], "during.jsonl"), "boottime")
    assert history[0] < during[0] - 1
    assert len(during) <= 2


def recorder_of(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the recorder's artifacts in the only incident."""
    (manifest,) = daemon.incidents()
    artifacts: list[dict[str, Any]] = steps_of(manifest)["recorder"]["artifacts"]
    return artifacts


def test_recorder_history_survives_the_collector(daemon_factory: Callable[..., Daemon]) -> None:
    """A killed run has what came before the crash, and the one that goes on with it adds its own seconds."""
    daemon = daemon_factory(config_of(MEMORY, HOLD, triggers=(), recorder=RECORDER), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    with subprocess.Popen([*COLLECTOR, "run", "--now", "--config", daemon.config], stderr=subprocess.DEVNULL) as run:
        with held(fifo):
            daemon.stop(signal.SIGKILL)
        run.wait(30)
    daemon.start()
    with held(fifo):
        pass
    (manifest,) = daemon.wait_for_incidents(1)
    assert manifest["continued"]
    wait_for(lambda: all(artifact.get("digest") for artifact in recorder_of(daemon)), "digests")
    artifacts = recorder_of(daemon)
    names = ["during.jsonl", "recorder.jsonl", "top.jsonl"]
    assert sorted(artifact["path"] for artifact in artifacts) == [f"recorder/{name}" for name in names]
    assert all(artifact["digest"] and "truncated" not in artifact for artifact in artifacts)
    assert archived(daemon, manifest["id"], "recorder.jsonl")[1]


def test_recorder_archives_the_seconds_of_an_incident_that_is_stopped(daemon_factory: Callable[..., Daemon]) -> None:
    """A daemon that is told to end seals what it has, with them."""
    daemon = daemon_factory(config_of(MEMORY, HOLD, triggers=(), recorder=RECORDER), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    with subprocess.Popen([*COLLECTOR, "run", "--now", "--config", daemon.config], stderr=subprocess.DEVNULL) as run:
        with held(fifo):
            assert daemon.process is not None
            daemon.process.terminate()
            wait_for(lambda: b"daemon.stopping" in daemon.log.read_bytes(), "daemon.stopping")
            daemon.process.terminate()
            wait_for(lambda: b"daemon.sealing" in daemon.log.read_bytes(), "daemon.sealing")
        daemon.process.wait(40)
        run.wait(30)
    (manifest,) = daemon.incidents()
    assert manifest["state"] == "interrupted"
    assert archived(daemon, manifest["id"], "during.jsonl")[1]


def test_recorder_says_what_was_lost(daemon_factory: Callable[..., Daemon]) -> None:
    """Rows that cannot be written make the incident incomplete, and only they."""
    daemon = daemon_factory(config_of(MEMORY, HOLD, triggers=(), recorder=RECORDER), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    with subprocess.Popen([*COLLECTOR, "run", "--now", "--config", daemon.config], stdout=subprocess.DEVNULL) as run:
        with held(fifo):
            (partial,) = daemon.archive.glob("*.partial")
            (partial / "recorder").rename(daemon.directory / "moved")
            (partial / "recorder").write_bytes(b"")
        assert run.wait(30) == 3
    (manifest,) = daemon.incidents()
    assert manifest["state"] == "incomplete"
    assert steps_of(manifest)["recorder"]["status"] == "failed"
    assert "recorder" in steps_of(manifest)["recorder"]["reason"]
    assert {step["status"] for step in manifest["steps"] if step["id"] != "recorder"} == {"ok"}


def test_recorder_without_a_daemon_says_so(daemon_factory: Callable[..., Daemon]) -> None:
    """`run --now` has no history; its own seconds are there."""
    daemon = daemon_factory(CONFIG, start=False)
    assert daemon.run("run", "--now").returncode == 0
    (manifest,) = daemon.incidents()
    for name in ("recorder.jsonl", "during.jsonl"):
        head, rows = archived(daemon, manifest["id"], name)
        assert "no daemon" in head["note"]
        assert rows


def test_recorder_is_nowhere_when_it_is_off(daemon_factory: Callable[..., Daemon]) -> None:
    """No step, no row, and `status --watch` says why; a reload cannot turn it on."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(), recorder={"keep": "0s"}))
    assert [step["id"] for step in incident_of(daemon)["steps"]] == ["memory"]
    assert status_of(daemon).second is None
    told = daemon.run("status", "--watch")
    assert told.returncode == 64
    assert "recorder is off" in told.stderr
    daemon.config.write_text(daemon.config.read_text().replace("0s", "1m"))
    assert "recorder.keep" in daemon.run("config", "reload").stdout
    assert status_of(daemon).after_restart == ("recorder.keep",)
    assert [step["id"] for step in incident_of(daemon)["steps"]] == ["memory"]


def test_recorder_stays_as_it_was_started_when_a_reload_turns_it_off(daemon_factory: Callable[..., Daemon]) -> None:
    """Until the restart, incidents still have it."""
    daemon = daemon_factory(CONFIG)
    daemon.config.write_text(daemon.config.read_text().replace("keep: 10m", "keep: 0s"))
    assert daemon.run("config", "reload").returncode == 0
    assert status_of(daemon).after_restart == ("recorder.keep",)
    assert steps_of(incident_of(daemon))["recorder"]["status"] == "ok"


def test_recorder_last_minute_is_watched(daemon_factory: Callable[..., Daemon]) -> None:
    """`status --watch` prints a line per row in a pipe, without repeating any; `status --json` has the newest."""
    daemon = daemon_factory(CONFIG)
    command = [*COLLECTOR, "status", "--watch", "--config", str(daemon.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(4)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 130
    stamps = [float(line.split()[0]) for line in lines]
    assert stamps == sorted(set(stamps))
    assert all(word in line for line in lines for word in ("available", "shmem", "stalled", "allocstall", "load"))
    newest = json.loads(daemon.run("status", "--json").stdout)["second"]
    assert newest["mem_available"] > 0
    assert newest["boottime"] == pytest.approx(watched(daemon).seconds[-1].at_s, abs=10)
    assert daemon.run("status", "--watch", "--json").returncode == 64


@pytest.mark.skipif(shutil.which("script") is None, reason="script(1) gives a terminal")
def test_recorder_last_minute_is_a_table_on_a_terminal(daemon_factory: Callable[..., Daemon]) -> None:
    """With the largest processes of the last round."""
    daemon = daemon_factory(CONFIG)
    if os.geteuid() == 0:
        wait_for(lambda: watched(daemon).top, "round over all processes")
    command = " ".join([*COLLECTOR, "status", "--watch", "--config", str(daemon.config)])
    with subprocess.Popen(["script", "-qec", command, "/dev/null"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        wanted = "by CPU" if os.geteuid() == 0 else "disk"
        assert any(wanted in line for line in iter(watching.stdout.readline, ""))
        watching.terminate()


def test_recorder_takes_less_than_a_mebibyte(daemon_factory: Callable[..., Daemon]) -> None:
    """Of the supervisor's memory, with all that its ring will ever need; and little of each worker's."""
    need("root")
    taken: list[tuple[int, int]] = []
    for keep in ("0s", "15m"):
        daemon = daemon_factory(config_of(MEMORY, triggers=(), recorder={"keep": keep}))
        if keep != "0s":
            wait_for(lambda daemon=daemon: watched(daemon).top, "round over all processes")
        run_now(daemon)
        wait_for(lambda daemon=daemon: status_of(daemon).workers_idle == 2, "two workers")
        workers = [private(worker.pid) for worker in psutil.Process(daemon.pid).children()]
        taken.append((own(daemon.pid), max(workers)))
        daemon.kill()
    (off, off_worker), (on, on_worker) = taken
    print(f"supervisor {off} -> {on}, largest worker {off_worker} -> {on_worker}")
    assert on - off <= MIB
    assert on_worker - off_worker <= MIB


def test_recorder_settings_are_checked(daemon_factory: Callable[..., Daemon]) -> None:
    """Its step's id is its own, and its memory is bounded."""
    mine = config_of("{id: recorder, collector: proc_files}", triggers=())
    checked = daemon_factory(mine, start=False).run("config", "check")
    assert checked.returncode == 78
    assert "recorder is the step of the flight recorder" in checked.stdout + checked.stderr
    long = config_of(MEMORY, triggers=(), recorder={"period": "500ms", "keep": "1h"})
    checked = daemon_factory(long, start=False).run("config", "check")
    assert checked.returncode == 78
    assert "7200 rows, more than 3600" in checked.stdout + checked.stderr
