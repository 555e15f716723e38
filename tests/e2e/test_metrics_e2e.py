"""What a running daemon tells Prometheus: to who asks, and in node_exporter's directory."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from configuration import CORES, CRASHER, MEMORY, TABLE, UNBOUNDED, config_of
from harness import COLLECTOR, HERE, Daemon, make_daemon, metric_in, run_now, status_of, wait_for
from machine import PROC_CONNECTOR, compiled, need

from collector.daemon.requests import metrics_of
from collector.model.case import Fate

STORM = f"storm-of-{CRASHER}"
DEATHS = f"{{id: deaths, type: process_exits, rules: [{{comm: [{STORM[:15]}]}}], pipeline: crash}}"
CRASHES = 1000


def checked(daemon: Daemon) -> str:
    """Return what `collector metrics` prints, which promtool has nothing to say about."""
    need("promtool")
    asked = [*COLLECTOR, "metrics", "--config", str(daemon.config)]
    done = subprocess.run(asked, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check = ["promtool", "check", "metrics"]
    said = subprocess.run(check, input=done.stdout, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    return done.stdout


def by_fate(text: str) -> Counter[str]:
    """Return the markers that were counted, by fate, of all triggers together."""
    found: Counter[str] = Counter()
    for fate, count in re.findall(
        r'^crash_collector_markers_total{trigger=".*",fate="(.*)"} (.*)$', text, re.MULTILINE
    ):
        found[fate] += int(count)
    return +found


def in_ledger(daemon: Daemon) -> Counter[str]:
    return Counter(status_of(daemon).fates)


def test_metrics_agree_with_the_ledger_and_reach_node_exporter(daemon_factory: Callable[..., Daemon]) -> None:
    """Asked or read from the file, which is written with mode 0644 whatever the umask."""
    directory = "$directory/prom"
    metrics = {"textfile": f"{directory}/collector.prom"}
    daemon = daemon_factory(config_of(MEMORY, TABLE, storm=UNBOUNDED, metrics=metrics), start=False)
    assert daemon.run("metrics").returncode == 69
    (daemon.directory / "prom").mkdir()
    daemon.start("sh", "-c", 'umask 077; exec "$@"', "sh")
    for number in range(3):
        daemon.put_core(f"core.{number}")
    daemon.wait_for_incidents(3)
    assert run_now(daemon).exit_code == 0
    wait_for(lambda: by_fate(metrics_of(str(daemon.runtime))).total() == 4, "metrics of four incidents")
    text = checked(daemon)
    assert by_fate(text) == in_ledger(daemon) == {"collected": 4}
    assert metric_in(text, 'incidents_total{pipeline="crash",state="complete"}') == 4
    assert metric_in(text, 'step_ends_total{step="memory",collector="proc_files",status="ok"}') == 4
    assert metric_in(text, 'step_duration_seconds_count{step="processes",collector="process_table"}') == 4
    assert metric_in(text, 'trigger_watching{trigger="cores"}') == 1
    assert metric_in(text, "archived_bytes_total") > 0
    assert metric_in(text, "last_success_timestamp_seconds") >= metric_in(text, "start_time_seconds")
    wait_for(lambda: "crash_collector_archive_incidents 4\n" in metrics_of(str(daemon.runtime)), "count of the archive")
    file = daemon.directory / "prom" / "collector.prom"
    assert file.stat().st_mode & 0o777 == 0o644
    assert re.findall("^# TYPE .*$", file.read_text(encoding="utf-8"), re.MULTILINE) == re.findall(
        "^# TYPE .*$", text, re.MULTILINE
    )


def test_metrics_tell_of_an_earlier_runs_end_and_of_a_refused_reload(daemon_factory: Callable[..., Daemon]) -> None:
    """What a restart must not forget, and what nobody sees who only reads logs."""
    daemon = daemon_factory(config_of(MEMORY))
    assert run_now(daemon).exit_code == 0
    success_s = daemon.metric("last_success_timestamp_seconds")
    daemon.stop()
    (daemon.archive / "20260101T000000.000000Z-000000.partial").mkdir()
    daemon.start()
    assert daemon.metric("last_success_timestamp_seconds") == success_s > 0
    good = daemon.config.read_text(encoding="utf-8")
    daemon.config.write_text(good + "metrics: {textfile: collector.prom}\n", encoding="utf-8")
    refused = daemon.run("config", "reload")
    assert refused.returncode == 78
    assert "must be an absolute path that ends in .prom" in refused.stderr
    assert daemon.metric("config_last_reload_successful") == 0
    daemon.config.write_text(good, encoding="utf-8")
    assert daemon.run("config", "reload").returncode == 0
    assert (daemon.metric("config_last_reload_successful"), daemon.metric("config_generation")) == (1, 2)


@pytest.mark.root
@pytest.mark.slow
def test_metrics_of_a_machine_that_had_a_thousand_crashes(tmp_path: Path) -> None:
    """Real ones, within the shipped budgets: every one of them is in the metrics by its fate, as in the ledger."""
    need("root", PROC_CONNECTOR)
    program = compiled(HERE / "storm.c", tmp_path)
    program = program.rename(program.with_name(STORM[:15]))
    daemon = make_daemon(tmp_path, 0, config_of(MEMORY, triggers=(DEATHS, CORES)))
    daemon.start()
    try:
        subprocess.run([program, str(CRASHES), "10000"], stdout=subprocess.DEVNULL, check=True, timeout=120)
        # Each is announced twice, by its dump and by its end.
        wait_for(lambda: in_ledger(daemon).total() == 2 * CRASHES, "markers of every crash", 60)
        wait_for(lambda: not status_of(daemon).running, "end of the last incident", 60)
        text = checked(daemon)
        ends = Counter({fate: count for fate, count in in_ledger(daemon).items() if not Fate(fate).open})
        waiting = CRASHES - (ends.total() - ends["joined"])
        print(f"{dict(ends)}, {waiting} wait, {len(text)} characters")
        assert by_fate(text) == ends
        assert metric_in(text, "crashes_waiting") == waiting == in_ledger(daemon)["held"]
        assert metric_in(text, 'incidents_total{pipeline="crash",state="complete"}') == len(daemon.incidents()) > 0
        assert metric_in(text, 'markers_lost_total{trigger="deaths"}') == 0
        assert len(text) < 32_000
    finally:
        daemon.kill()
