"""Reload while it crashes: nothing is lost, and what is in force is the last good configuration."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from configuration import MEMORY, UNBOUNDED, config_of
from harness import Daemon, answer_of, status_of, wait_for

from collector.config.load import load
from collector.daemon.messages import ReloadRequest, Reply

EDITS = 100
CRASHES = 10

GENERATION = config_of(
    MEMORY, "{id: generation-0, collector: proc_files}", archive={"keep": {"count": None}}, storm=UNBOUNDED
)

BAD = (
    "pipelines: {}\n",
    "version: 1\npipelines: {crash: {steps: [{id: a, collector: gone}]}}\n",
    "\t",
    "{",
    "version: 7\n",
    "",
)


def crash(daemon: Daemon, number: int) -> None:
    """A core file appears as dumpers make it: complete, under its name in one step."""
    hidden = daemon.directory / "unfinished"
    hidden.write_bytes(b"\x7fELF" + bytes([number]) * 4096)
    hidden.rename(daemon.cores / f"core.{number}")


def put(daemon: Daemon, text: str) -> None:
    new = daemon.directory / "new.yaml"
    new.write_text(text)
    new.rename(daemon.config)


def reload(daemon: Daemon, edit: int, *, good: bool) -> None:
    """Every tenth edit is told by signal, the others through the socket, which says what came of it."""
    if edit % 10:
        reply = answer_of(daemon, ReloadRequest())
        assert isinstance(reply, Reply)
        assert reply.exit_code == (0 if good else 78)
        return
    before = status_of(daemon).config_hash
    os.kill(daemon.pid, signal.SIGHUP)
    if good:
        wait_for(lambda: status_of(daemon).config_hash != before, "new generation")
    else:
        wait_for(lambda: status_of(daemon).config_problem, "refusal")


def test_config_reload_storm_loses_no_incident(daemon_factory: Callable[..., Daemon]) -> None:
    """100 alternating good and bad edits while it crashes: every crash is archived, each by one whole generation."""
    daemon = daemon_factory(GENERATION)
    first = daemon.config.read_text()
    hashes = {load(str(daemon.config)).hash: "generation-0"}
    crashes = [*range(EDITS // CRASHES, EDITS + 1, EDITS // CRASHES), EDITS + 1]
    for edit in range(1, EDITS + 1):
        good = edit % 2 == 1
        put(daemon, first.replace("generation-0", f"generation-{edit}") if good else BAD[edit // 2 % len(BAD)])
        if good:
            hashes[load(str(daemon.config)).hash] = f"generation-{edit}"
        if edit in crashes:
            crash(daemon, edit)
        reload(daemon, edit, good=good)
    crash(daemon, crashes[-1])  # when the last edit has been refused, it still watches
    incidents = daemon.wait_for_incidents(len(crashes), timeout_s=60)
    assert len(incidents) == len(crashes)
    for incident in incidents:
        assert hashes[incident["config_hash"]] in incident["planned"]
        assert incident["state"] == "complete", [step for step in incident["steps"] if step["status"] != "ok"]
    assert {marker["core"]["path"] for incident in incidents for marker in incident["markers"]} == {
        f"{daemon.cores}/core.{edit}" for edit in crashes
    }
    status = status_of(daemon)
    assert hashes[status.config_hash] == f"generation-{EDITS - 1}"
    assert status.config_problem is not None
    assert daemon.stop() == 0


def test_config_reload_of_a_bad_file_keeps_the_old_one_and_says_so(daemon_factory: Callable[..., Daemon]) -> None:
    """Log, status and the exit status of `config reload` all say that the file was refused, and where it is wrong."""
    daemon = daemon_factory()
    old = status_of(daemon).config_hash
    bad = daemon.config.read_text().replace("rate: adaptive", "rate: fast")
    put(daemon, bad)
    line = bad.partition("fast")[0].splitlines()
    place = f"{daemon.config}:{len(line)}:{len(line[-1]) + 1}"
    result = daemon.run("config", "reload")
    assert result.returncode == 78
    assert place in result.stderr
    assert status_of(daemon).config_hash == old
    assert place in daemon.run("status").stdout
    assert any(place in str(event.get("problems")) for event in daemon.events() if event["event"] == "config.refused")


def test_config_reload_of_a_good_file_takes_effect(daemon_factory: Callable[..., Daemon]) -> None:
    """And once it is mended, all three say so."""
    daemon = daemon_factory()
    old = status_of(daemon).config_hash
    put(daemon, daemon.config.read_text().replace("256MiB", "257MiB"))
    assert daemon.run("config", "reload").returncode == 0
    status = status_of(daemon)
    assert status.config_problem is None
    assert status.config_hash == load(str(daemon.config)).hash != old


def test_config_reload_on_change_needs_no_telling(daemon_factory: Callable[..., Daemon]) -> None:
    """With `reload_on_change`, an edit takes effect by itself; a bad one is refused as ever."""
    daemon = daemon_factory(config_of(runtime={"reload_on_change": True}))
    text = daemon.config.read_text()
    put(daemon, text.replace("256MiB", "257MiB"))
    good = load(str(daemon.config)).hash
    wait_for(lambda: status_of(daemon).config_hash == good, "new generation")
    put(daemon, text + "copi: {}\n")
    wait_for(lambda: status_of(daemon).config_problem, "refusal")
    assert status_of(daemon).config_hash == good


def test_config_reload_of_a_drop_in_takes_effect(daemon_factory: Callable[..., Daemon]) -> None:
    """A drop-in is part of the configuration."""
    daemon = daemon_factory()
    old = status_of(daemon).config_hash
    drop_in = daemon.directory / "conf.d" / "10-local.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("pressure: {wait: 1s}\n")
    assert daemon.run("config", "reload").returncode == 0
    assert status_of(daemon).config_hash != old
    assert Path(drop_in).exists()
