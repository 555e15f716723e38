"""The rules for Prometheus: they parse, fire when they should, and speak of metrics that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml
from machine import need

from collector.daemon.metric_table import METRICS, PREFIX, MetricKind

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs/alerts.yml"
SITUATIONS = ROOT / "tests/contract/alerts_situations.yml"


def promtool(*arguments: str) -> str:
    need("promtool")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_are_rules_that_promtool_accepts() -> None:
    """As whoever installs them checks them."""
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


def test_alerts_fire_in_the_situations_that_they_are_for(tmp_path: Path) -> None:
    """And not on a machine that is well. Without the annotations, which are for people."""
    content = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in content["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    situations = tmp_path / SITUATIONS.name
    situations.write_bytes(SITUATIONS.read_bytes())
    assert "SUCCESS" in promtool("test", "rules", str(situations))


def test_alerts_speak_of_metrics_that_exist() -> None:
    """A metric that was renamed would never fire again. Each rule has a situation in which it fires."""
    suffixes = {MetricKind.SUMMARY: ("_sum", "_count")}
    names = {PREFIX + metric.name + end for metric in METRICS for end in suffixes.get(metric.kind, ("",))}
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    assert {name for rule in rules for name in re.findall(rf"{PREFIX}\w+", rule["expr"])} <= names
    situations = yaml.safe_load(SITUATIONS.read_text(encoding="utf-8"))["tests"]
    fired = {one["alertname"] for test in situations for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules}
