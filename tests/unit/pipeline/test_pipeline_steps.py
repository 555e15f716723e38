"""Which steps a crash runs."""

from __future__ import annotations

from pathlib import Path

from collector.model.marker import Marker, MarkerKind
from collector.pipeline.compile import prepare
from collector.pipeline.steps import steps_for
from collector.triggers.registry import TRIGGERS

FILE = """\
version: 1
pipelines:
  crash:
    steps:
      - {id: a, collector: dmesg}
      - {id: b, collector: dmesg, when: {unit: [a.service]}}
      - {id: c, collector: dmesg, when: {signal: [ABRT]}}
      - {id: d, collector: dmesg, when: {signal: [SEGV]}}
"""


def test_steps_that_do_not_apply_are_listed_with_their_reason(tmp_path: Path) -> None:
    """A step must not vanish without a trace: the pipeline of a crash names those that it lacks."""
    (tmp_path / "c.yaml").write_text(FILE)
    whole = prepare(str(tmp_path / "c.yaml"), TRIGGERS).pipelines["crash"]
    chosen = steps_for(whole, Marker(kind=MarkerKind.EXIT, trigger="deaths", at_s=0.0, signal=11))
    assert [step.id for step in chosen.steps] == ["a", "d"]
    assert [(step.id, why) for step, why in chosen.left_out] == [
        ("b", "unit is unknown, not a.service"),
        ("c", "signal is SIGSEGV, not SIGABRT"),
    ]
