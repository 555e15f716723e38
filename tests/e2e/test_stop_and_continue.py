"""Stopping and starting in the middle of an incident: it finishes first, or the next start goes on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from configuration import CORE, HOLD, MEMORY, SEGMENTS, TABLE, config_of, write_config
from harness import COLLECTOR, Daemon, Victim, contents, held, segment, status_of, steps_of, wait_for
from machine import core_pattern

pytestmark = pytest.mark.root
MIB = 1 << 20
STEPS = (MEMORY, TABLE, CORE, SEGMENTS)


def slow(**runtime: str) -> str:
    """A configuration that copies 24 MiB within 1.5 s."""
    return config_of(*STEPS, copy={"rate": "16MiB/s"}, runtime=runtime)


@contextmanager
def copying(daemon: Daemon, crasher: Path, *sizes_mib: int) -> Iterator[list[bytes]]:
    """Crash a process with segments of *sizes_mib*, and wait until the last is being copied; yield their contents."""
    data = [os.urandom(size * MIB) for size in sizes_mib]
    segments = [segment(f"kept{number}", len(one), {0: one}) for number, one in enumerate(data)]
    paths = [opened.__enter__() for opened in segments]
    try:
        with core_pattern(f"{daemon.cores}/core.%e.%p"):
            Victim(crasher, *paths).die()
        before = sum(map(len, data[:-1])) + MIB
        wait_for(lambda: [one for one in status_of(daemon).running if one.size_bytes > before], "copy under way")
        yield data
    finally:
        for opened in segments:
            opened.__exit__(None, None, None)


def copied(daemon: Daemon, manifest: dict[str, Any]) -> list[bytes]:
    """Return the contents of the segments that an incident has."""
    found = contents(daemon.archive / manifest["id"] / "segments" / "segments")
    return [found[name] for name in sorted(found)]


def the_partial(daemon: Daemon) -> Path:
    (partial,) = daemon.archive.glob("*.partial")
    return partial


def paths_of(manifest: dict[str, Any]) -> list[str]:
    return [artifact["path"] for step in manifest["steps"] for artifact in step.get("artifacts", ())]


def test_stop_lets_the_incident_finish(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """SIGTERM in the middle of a copy: all of it is archived; a crash meanwhile is recorded, and collected next."""
    daemon = daemon_factory(slow())
    with copying(daemon, crasher, 8) as data:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: b"daemon.stopping" in daemon.log.read_bytes(), "daemon.stopping")
        daemon.put_core("core.meanwhile")
        assert daemon.process.wait(40) == 0
    (manifest,) = daemon.incidents()
    assert manifest["state"] == "complete", manifest
    assert copied(daemon, manifest) == data
    assert "continued" not in manifest or not manifest["continued"]
    assert [fate for (fate,) in daemon.ledger("fate")] == ["collected", "queued"]
    daemon.start()
    _, late = daemon.wait_for_incidents(2)
    assert late["markers"][0]["core"]["path"].endswith("core.meanwhile")


def test_stop_seals_at_the_second_signal(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Somebody who cannot wait gets what there is."""
    daemon = daemon_factory(slow())
    with copying(daemon, crasher, 24):
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: b"daemon.stopping" in daemon.log.read_bytes(), "daemon.stopping")
        assert status_of(daemon).running
        assert daemon.stop(signal.SIGTERM) == 0
    (manifest,) = daemon.incidents()
    assert manifest["state"] == "interrupted"
    assert not list(daemon.archive.glob("*.partial"))


@pytest.mark.parametrize("how", ["killed", "out_of_grace"])
def test_start_goes_on_with_what_was_cut_off(daemon_factory: Callable[..., Daemon], crasher: Path, how: str) -> None:
    """What has ended stays, what has not is collected: the incident is complete, and says that there was a gap."""
    daemon = daemon_factory(slow(**({"stop_grace": "0s"} if how == "out_of_grace" else {})))
    with copying(daemon, crasher, 2, 8) as data:
        daemon.stop(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        before = (the_partial(daemon) / "processes/processes.tsv").stat()
        first = (the_partial(daemon) / "segments/segments/0001").stat()
        daemon.start()
        (manifest,) = daemon.wait_for_incidents(1)
    assert manifest["state"] == "complete", manifest
    assert daemon.metric("incidents_continued_total") == 1
    assert copied(daemon, manifest) == data
    kept = daemon.archive / manifest["id"]
    assert (kept / "processes/processes.tsv").stat().st_mtime_ns == before.st_mtime_ns, "read again"
    assert (kept / "segments/segments/0001").stat().st_ino == first.st_ino, "copied again"
    (continued,) = manifest["continued"]
    assert continued["gap_s"] > 0
    assert "cut off, and continued " in " ".join(daemon.run("show").stdout.split())
    assert set(continued["done"]) == {"memory", "processes", "core"}
    assert len(paths_of(manifest)) == len(set(paths_of(manifest)))
    assert not list(kept.rglob("*.part"))
    wait_for(lambda: daemon.ledger("fate") == [("collected",)], "end of the marker, after retention")
    assert daemon.run("verify").returncode == 0
    steps = daemon.run("show", "latest", "--steps").stdout
    assert f", {continued['gap_s']:.1f} s after it was cut off; done before: " in steps


def test_run_without_the_daemon_leaves_its_incident_to_its_next_start(daemon_factory: Callable[..., Daemon]) -> None:
    """Between its end and its restart somebody collects by hand: that must not give up what could be continued."""
    daemon = daemon_factory(config_of(MEMORY, HOLD), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    daemon.put_core("core.one")
    with held(fifo):
        daemon.kill()
    by_hand = daemon.run("run", "--now", "--only", "memory")
    assert by_hand.returncode == 0
    incident = the_partial(daemon).name.removesuffix(".partial")
    assert f"{incident} is unfinished: the next start of the daemon goes on with it" in by_hand.stderr
    daemon.start()
    with held(fifo):
        pass
    manifest, _ = daemon.wait_for_incidents(2)
    assert manifest["id"] == incident
    assert manifest["continued"]
    wait_for(lambda: daemon.ledger("fate") == [("collected",)], "end of the marker, after retention")


def test_start_says_which_segments_are_not_the_same_any_more(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """One that was written to meanwhile is not taken for the crash's; what there was of it is kept."""
    daemon = daemon_factory(slow())
    with copying(daemon, crasher, 2, 8) as data:
        daemon.stop(signal.SIGKILL)
        (changed,) = Path("/dev/shm").glob(f"kept1-{os.getpid()}")
        with changed.open("r+b") as file:
            file.write(b"another")
        daemon.start()
        (manifest,) = daemon.wait_for_incidents(1)
    assert manifest["state"] == "incomplete"
    step = steps_of(manifest)["segments"]
    assert step["status"] == "truncated"
    assert f"changed, while the collector was not running: {changed.name}" in step["reason"]
    kept = contents(daemon.archive / manifest["id"] / "segments/segments")
    assert kept["0001"] == data[0]
    part = kept["0002.part"]
    assert 0 < len(part) <= len(data[1])
    assert part[:4096] == data[1][:4096]


def test_start_goes_on_only_once(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """What kills the daemon again and again must not keep it from other crashes."""
    daemon = daemon_factory(slow())
    with copying(daemon, crasher, 24) as data:
        daemon.stop(signal.SIGKILL)
        daemon.start()
        aside = the_partial(daemon) / "segments/segments/0001.earlier.part"
        wait_for(aside.exists, "second copy")
        assert aside.read_bytes()[:MIB] == data[0][:MIB]
        daemon.stop(signal.SIGKILL)
        daemon.start()
        (manifest,) = daemon.wait_for_incidents(1)
    assert manifest["state"] == "interrupted"
    assert len(manifest["continued"]) == 1
    assert "segments/segments/0001.earlier.part" in paths_of(manifest)
    assert [fate for (fate,) in daemon.ledger("fate")] == ["interrupted"]


def test_start_after_another_boot_seals(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """What was to be collected is gone."""
    daemon = daemon_factory(slow())
    with copying(daemon, crasher, 24):
        daemon.stop(signal.SIGKILL)
        header = the_partial(daemon) / "incident.json"
        header.write_text(json.dumps(json.loads(header.read_text()) | {"boot_id": "another"}))
        daemon.start()
        (manifest,) = daemon.wait_for_incidents(1)
    assert manifest["state"] == "interrupted"
    assert not manifest.get("continued")


def test_start_goes_on_without_steps_that_the_configuration_has_lost(
    daemon_factory: Callable[..., Daemon],
) -> None:
    """An upgrade may change the file: what cannot be collected is said, and the rest is."""
    daemon = daemon_factory(config_of(MEMORY, HOLD, TABLE), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    daemon.put_core("core.one")
    with held(fifo):
        daemon.kill()
    write_config(daemon.directory, config_of(MEMORY, TABLE))
    daemon.start()
    (manifest,) = daemon.wait_for_incidents(1)
    steps = steps_of(manifest)
    assert manifest["state"] == "incomplete"
    assert steps["hold"]["status"] == "failed"
    assert "no step of this name" in steps["hold"]["reason"]
    assert {steps[step]["status"] for step in ("memory", "processes")} == {"ok"}


def test_drain_finishes_what_is_queued_and_begins_nothing_more(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """Before an upgrade: crashes meanwhile are recorded, and collected once the daemon may begin again."""
    daemon = daemon_factory(config_of(MEMORY, HOLD), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        Victim(crasher).die()
    with held(fifo):
        late = daemon.run("drain", "--timeout", "0s")
        assert late.returncode == 75
        assert "1 incidents are not archived" in late.stderr
        daemon.put_core("core.meanwhile")
        wait_for(lambda: len(daemon.ledger("id")) == 2, "record of the second")
    done = daemon.run("drain", "--json")
    assert json.loads(done.stdout) == {"drained": True, "waiting": 1}
    assert len(daemon.incidents()) == 1
    assert [fate for (fate,) in daemon.ledger("fate")] == ["collected", "queued"]
    assert "DRAINED" in daemon.run("status").stdout
    assert "it is drained: 1 crashes wait" in daemon.run("doctor").stdout
    refused = daemon.run("run", "--now")
    assert (refused.returncode, "drain --off" in refused.stderr) == (75, True)
    assert daemon.run("drain", "--off").stdout == "not drained\n"
    with held(fifo):
        pass
    daemon.wait_for_incidents(2)
    assert "DRAINED" not in daemon.run("status").stdout


def test_drain_does_not_claim_what_was_taken_back_meanwhile(daemon_factory: Callable[..., Daemon]) -> None:
    """Whoever waits for it must not stop the daemon because of it."""
    daemon = daemon_factory(config_of(MEMORY, HOLD), start=False)
    os.mkfifo(fifo := daemon.directory / "hold")
    daemon.start()
    daemon.put_core("core.one")
    with held(fifo):
        command = [*COLLECTOR, "drain", "--config", str(daemon.config)]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: status_of(daemon).drained_s, "drain")
        daemon.run("drain", "--off")
        said, why = waiting.communicate(timeout=20)
    assert (waiting.returncode, said) == (75, "")
    assert "it is not drained any more" in why
    ruled = [event["event"] for event in daemon.events() if event["event"].startswith("drain.")]
    assert ruled == ["drain.started", "drain.ended"]


def test_drain_ends_with_the_daemon(daemon_factory: Callable[..., Daemon]) -> None:
    """The package's upgrade restarts it: what was recorded is collected then."""
    daemon = daemon_factory(config_of(MEMORY))
    assert daemon.run("drain").returncode == 0
    daemon.put_core("core.meanwhile")
    wait_for(lambda: len(daemon.ledger("id")) == 1, "record")
    daemon.stop()
    assert not daemon.incidents()
    daemon.start()
    daemon.wait_for_incidents(1)


def test_drain_says_that_no_daemon_answers(daemon_factory: Callable[..., Daemon]) -> None:
    """A script must not take that for drained."""
    daemon = daemon_factory(config_of(MEMORY), start=False)
    command = [*COLLECTOR, "drain", "--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, timeout=60)
    assert done.returncode == 69
    assert "no daemon answers" in done.stderr
