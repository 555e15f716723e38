"""Which steps a crash runs."""

from __future__ import annotations

from pathlib import Path

from collector.collectors.core.core import Core, KeepCore
from collector.model.marker import Marker, MarkerKind
from collector.pipeline.compile import prepare
from collector.pipeline.over_budget import beyond_budget
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


def test_steps_beyond_a_budget_copy_nothing_and_name_what_is_left_out(tmp_path: Path) -> None:
    """Also if they are those of the pipeline that would have run; of a core, the facts are left."""
    more = "      - {id: core, collector: core}\n      - {id: segments, collector: shm}\n"
    (tmp_path / "c.yaml").write_text(f"{FILE}{more}  brief:\n    steps:\n      - {{id: core, collector: core}}\n")
    pipelines = prepare(str(tmp_path / "c.yaml"), TRIGGERS).pipelines
    crash, marker = pipelines["crash"], Marker(kind=MarkerKind.EXIT, trigger="deaths", at_s=0.0, signal=11)
    brief = beyond_budget(pipelines["brief"], crash, marker, "5 incidents")
    assert (brief.over_budget, brief.forgone) == ("5 incidents", ("a", "b", "c", "d", "segments"))
    assert [step.collector.keep for step in brief.steps if isinstance(step.collector, Core)] == [KeepCore.NONE]
    same = beyond_budget(crash, crash, marker, "5 incidents")
    assert ([step.id for step in same.steps], same.forgone) == (["a", "d", "core"], ("segments",))
    assert [step.id for step, _ in same.left_out] == ["b", "c"], "tried if a later marker meets their conditions"
