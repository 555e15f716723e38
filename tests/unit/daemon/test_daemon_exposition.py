"""The text for Prometheus: one table of metrics, and names and values that cannot break a line."""

from __future__ import annotations

import re
import subprocess

import pytest
from machine import need

from collector.daemon.exposition import Rows, exposition
from collector.daemon.metric_table import METRICS, MetricKind

NOTHING: dict[str, Rows] = {metric.name: {} for metric in METRICS}
OF_THE_CONFIGURATION = {"trigger", "pipeline", "step"}
FIXED = {"version", "hash", "fate", "limit", "state", "collector", "status", "decision", "term"}


def test_exposition_escapes_what_a_value_may_have() -> None:
    """A name from a file must not become a line, or end its label."""
    text = exposition({**NOTHING, "trigger_watching": {('a"b\\c\nd',): 1}})
    assert 'crash_collector_trigger_watching{trigger="a\\"b\\\\c\\nd"} 1\n' in text


def test_exposition_of_a_summary_has_sum_and_count() -> None:
    """Seconds keep their microseconds."""
    text = exposition({**NOTHING, "step_duration_seconds": {("memory", "proc_files"): (1.25, 3)}})
    labels = '{step="memory",collector="proc_files"}'
    assert f"crash_collector_step_duration_seconds_sum{labels} 1.25\n" in text
    assert f"crash_collector_step_duration_seconds_count{labels} 3\n" in text


def test_exposition_is_what_promtool_accepts() -> None:
    """With a value for each metric of the table, so that none is badly named."""
    need("promtool")
    values: dict[str, Rows] = {
        metric.name: {
            tuple("x" for _ in metric.labels): (1.5, 2) if metric.kind is MetricKind.SUMMARY else 1795903635.739192
        }
        for metric in METRICS
    }
    check = ["promtool", "check", "metrics"]
    done = subprocess.run(check, input=exposition(values), capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_has_a_bounded_set_of_labels(metric: object) -> None:
    """Never a user, a program, a PID or an incident: two thousand machines would drown Prometheus in series."""
    assert set(getattr(metric, "labels", ())) <= OF_THE_CONFIGURATION | FIXED


def test_metric_names_are_unique_and_helped_in_one_line() -> None:
    """Names are lower case; what only grows ends in _total."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch("[a-z_]+", metric.name)
        assert (metric.kind is MetricKind.COUNTER) == metric.name.endswith("_total"), metric.name
        assert metric.help.endswith(".")
        assert "\n" not in metric.help
