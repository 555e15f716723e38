"""Warnings about what is legal but harmful on this machine, which is made up here: judging it is pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.model.diagnostics import Severity
from collector.model.pressure import NodeSample, Sample
from collector.pipeline.compile import Plan, draft, prepare
from collector.pipeline.machine_facts import MachineFacts, Place, place, survey
from collector.pipeline.warnings import notes_of, warnings_of
from collector.triggers.registry import TRIGGERS

GIB = 1 << 30
FILE = """\
version: 1
triggers:
  - {id: cores, type: core_files, paths: [/var/crash], pipeline: crash}
pipelines:
  crash:
    steps:
      - {id: memory, collector: proc_files}
"""
SAMPLE = Sample(
    taken_s=0.0, total_bytes=64 * GIB, mem_available_bytes=32 * GIB, dirty_bytes=0, writeback_bytes=0, shmem_bytes=0,
    nodes=(NodeSample(node=0, room_bytes=32 * GIB),),
)  # fmt: skip
DISK = Place(
    path="/srv", parent="/srv", kind="ext4", in_memory=False, free_bytes=900 * GIB, total_bytes=1000 * GIB, problem=None
)
MACHINE = MachineFacts(sample=SAMPLE, archive=DISK, runtime=DISK, unmatched={}, unsafe_files={}, bad_programs={})


def plan_of(directory: Path, text: str) -> Plan[Any]:
    (directory / "c.yaml").write_text(text)
    return prepare(str(directory / "c.yaml"), TRIGGERS)


def warned(plan: Plan[Any], facts: MachineFacts = MACHINE) -> list[str]:
    found = warnings_of(plan, facts)
    assert all(diagnostic.severity is Severity.WARNING and diagnostic.hint for diagnostic in found)
    return [f"{diagnostic.mark.line}:{diagnostic.mark.column} {diagnostic.message}" for diagnostic in found]


def test_warnings_of_a_good_file_are_none(tmp_path: Path) -> None:
    """No false alarms: a warning that is always there is never read."""
    assert warned(plan_of(tmp_path, FILE)) == []


@pytest.mark.parametrize(
    ("more", "culprit", "said"),
    [
        ("pressure: {psi_full: 5%}\n", "psi_full", "'psi_full' is no longer a key of pressure and does nothing"),
        ("pressure: {on_pressure: proceed}\n", "proceed", "`proceed` collects on a starving machine"),
        (
            "      - {id: a, collector: core, with: {content: stacks, compress: zstd}}\n",
            "zstd",
            "`compress` has no effect with `content: stacks`",
        ),
        ("copy: {rate: max}\n", "max", "at `max` every other writer"),
        ("      - {id: a, collector: dmesg, pressure: {on_pressure: proceed}}\n", "proceed", "`proceed` collects"),
        (
            "      - {id: a, collector: dmesg, timeout: 2h}\n",
            "2h",
            "step a may take 2h, but its pipeline ends after 30m",
        ),
        ("      - {id: a, collector: dmesg, pressure: {floor: 64GiB}}\n", "64GiB", "step a can never run here"),
    ],
)
def test_warning_about_the_file_has_its_place(more: str, culprit: str, said: str, tmp_path: Path) -> None:
    """Each harmful setting is reported at its place."""
    (found,) = warned(plan_of(tmp_path, FILE + more))
    assert found.startswith(f"8:{more.index(culprit) + 1} {said}")


@pytest.mark.parametrize(
    ("more", "culprit", "said"),
    [
        (
            "      - {id: a, collector: dmesg, pressure: {floor: 32GiB}}\n",
            "32GiB",
            "step a would be held back now: of 32768.0 MiB available its budget of 4MiB leaves less than the floor",
        ),
        (
            "      - {id: a, collector: shm, with: {max_total: 2TiB}}\n",
            "2TiB",
            "step a may take 2TiB, but the archive's",
        ),
    ],
)
def test_note_about_the_machine_has_its_place(more: str, culprit: str, said: str, tmp_path: Path) -> None:
    """What lasts only for the moment, or only caps, is no reason to refuse a file."""
    plan = plan_of(tmp_path, FILE + more)
    (found,) = notes_of(plan, MACHINE)
    assert (found.severity, found.mark.line, found.mark.column) == (Severity.NOTE, 8, more.index(culprit) + 1)
    assert found.message.startswith(said)
    assert warned(plan) == []


def test_note_about_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    """The shipped file names /var/crash, which not every machine has."""
    facts = msgspec.structs.replace(MACHINE, unmatched={("triggers", 0, "paths", 0): "/var/crash"})
    plan = plan_of(tmp_path, FILE)
    (found,) = notes_of(plan, facts)
    assert found.message == "'/var/crash' matches nothing at present"
    assert (warned(plan, facts), notes_of(plan, None)) == ([], ())


def test_warnings_without_a_machine_are_those_of_the_file(tmp_path: Path) -> None:
    """A repository of configurations is checked on a machine for which none of them is meant."""
    plan = plan_of(
        tmp_path, "copy: {rate: max}\n" + FILE + "      - {id: a, collector: dmesg, pressure: {floor: 64GiB}}\n"
    )
    (found,) = warnings_of(plan, None)
    assert found.message.startswith("at `max`")


def test_warning_about_bulk_that_never_runs_beyond_a_budget(tmp_path: Path) -> None:
    """Of the pipeline for repeats nothing is copied: whoever lists segments there must not wait for them."""
    more = "      - {id: core, collector: core}\n      - {id: a, collector: shm}\n"
    storm = "storm: {over_budget: {pipeline: crash}}\n"
    (found,) = warned(plan_of(tmp_path, FILE + more + storm))
    assert found.startswith("10:33 of pipeline crash, a never runs for crashes over their budget")


@pytest.mark.parametrize(
    ("options", "core", "said"),
    [
        ("remove: archived, ", "", "`remove` removes nothing: the pipeline crash archives no core"),
        ("size: 10GiB, ", "with: {keep: none}", "`size` removes nothing"),
        ("remove: archived, size: 10GiB, ", "with: {keep: copy}", ""),
    ],
)
def test_warning_about_cores_that_are_never_archived(options: str, core: str, said: str, tmp_path: Path) -> None:
    """A directory that fills up in spite of the key that is to prevent it."""
    step = f"      - {{id: core, collector: core, {core}}}\n" if core else ""
    found = warned(plan_of(tmp_path, FILE.replace("pipeline: crash}", f"{options}pipeline: crash}}") + step))
    assert [one.partition(" ")[2][: len(said)] for one in found] == [said] * bool(said)


def test_warning_about_a_daemon_that_waits_for_nothing(tmp_path: Path) -> None:
    """A file whose triggers are all off is legal, but rarely intended."""
    (found,) = warned(plan_of(tmp_path, FILE.replace("pipeline: crash}", "pipeline: crash, enabled: false}")))
    assert "no trigger is on" in found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("uids: [0, 1001]", ["uids"]),
        ("group: adm, unprivileged: attribute", ["group", "unprivileged"]),
        ("uids: [0], unprivileged: refuse", []),
        ("uids: [1001], group: adm, socket: /run/x.sock", []),
    ],
)
def test_warning_about_senders_who_cannot_reach_the_socket(options: str, said: list[str], tmp_path: Path) -> None:
    """They are let in by a socket in a directory that they cannot enter."""
    told = f"  - {{id: told, type: notify, {options}, pipeline: crash}}\npipelines:"
    found = warned(plan_of(tmp_path, FILE.replace("pipelines:", told)))
    assert [(one[:2], one.split("`")[1]) for one in found] == [("4:", key) for key in said]


def test_warning_about_a_second_trigger_that_wants_the_kernels_cores(tmp_path: Path) -> None:
    """One that is off wants nothing."""
    line = "  - {id: %s, type: kernel_cores, pipeline: crash%s}\n"
    text = FILE.replace("pipelines:", f"{line % ('off', ', enabled: false')}{line % ('one', '')}%spipelines:")
    assert warned(plan_of(tmp_path, text % "")) == []
    (found,) = warned(plan_of(tmp_path, text % (line % ("two", ""))))
    assert found.startswith("6:")
    assert "trigger two gets no crash: the kernel hands them to one only, one" in found


def test_warning_about_a_pipeline_that_a_run_by_hand_does_not_find(tmp_path: Path) -> None:
    """Better to learn before a crash that `run --now` has no pipeline."""
    text = FILE.replace("crash:\n", "other:\n").replace("pipeline: crash", "pipeline: other")
    assert warned(plan_of(tmp_path, text)) == [
        "5:3 there is no pipeline 'crash': `collector run --now` needs --pipeline"
    ]


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({"archive": {"in_memory": True, "kind": "tmpfs"}}, "is on tmpfs"),
        ({"archive": {"problem": "/srv is not writable"}}, "cannot be used: /srv is not writable"),
        ({"archive": {"free_bytes": 10 * GIB}}, "has 10.0 GiB free, less than its reserve of 50.0 GiB"),
        ({"archive": {"free_bytes": GIB // 64}}, "has 16.0 MiB free, less than its reserve of 50.0 GiB"),
        ({"runtime": {"problem": "/run is not writable"}}, "cannot be used: /run is not writable"),
    ],
)
def test_warning_about_the_machine_is_given(machine: dict[str, dict[str, Any]], said: str, tmp_path: Path) -> None:
    """A conflict with this machine is reported at the key that causes it."""
    parts = {name: msgspec.structs.replace(DISK, **change) for name, change in machine.items()}
    (found,) = warned(plan_of(tmp_path, FILE), msgspec.structs.replace(MACHINE, **parts))
    assert said in found


def test_survey_finds_globs_without_a_match(tmp_path: Path) -> None:
    """A misspelled glob would never collect anything: it is reported while somebody is looking."""
    (tmp_path / "there.log").touch()
    logs = f"['{tmp_path}/there*', '{tmp_path}/their*']"
    text = FILE.replace("[/var/crash]", f"['{tmp_path}']")
    text += f"      - {{id: a, collector: files, with: {{paths: {logs}}}}}\n"
    text += "      - {id: b, collector: shm, with: {segments: ['no such segment']}}\n"
    facts = survey(plan_of(tmp_path, text), is_root=True, environ={})
    assert facts.unmatched == {
        ("pipelines", "crash", "steps", 1, "with", "paths", 1): f"{tmp_path}/their*",
        ("pipelines", "crash", "steps", 2, "with", "segments", 0): "no such segment",
    }


def test_survey_finds_a_file_that_others_can_change(tmp_path: Path) -> None:
    """Whoever can edit the file controls root, so only root may own it."""
    plan = plan_of(tmp_path, FILE)
    assert survey(plan, is_root=True, environ={}).unsafe_files == {}
    (tmp_path / "c.yaml").chmod(0o666)
    assert list(survey(plan, is_root=True, environ={}).unsafe_files) == [f"{tmp_path}/c.yaml"]


def test_survey_knows_tmpfs_and_a_file_in_the_way(tmp_path: Path) -> None:
    """A directory that does not exist yet is judged by the one above it."""
    assert place("/dev/shm/not/yet").in_memory
    assert place(f"{tmp_path}/not/yet").problem is None
    (tmp_path / "file").touch()
    assert place(f"{tmp_path}/file/below").problem == f"{tmp_path}/file is not a directory"


TWO_PIPELINES = """\
version: 1
triggers:
  - {id: cores, type: core_files, paths: [/var/crash], pipeline: crash}
  - {id: cores2, type: core_files, paths: [/srv/crash], pipeline: crash}
  - {id: kernel, type: kernel_log, pipeline: machine}
  - {id: starving, type: memory_pressure, pipeline: machine}
  - {id: off, type: notify, pipeline: crash, enabled: false}
pipelines:
  crash:
    steps:
      - {id: a, collector: dmesg, when: {%s}}
  machine:
    steps:
      - {id: b, collector: dmesg, when: {%s}}
"""


@pytest.mark.parametrize(
    ("crash", "machine", "said"),
    [
        ("unit: [a.service], exe: [/usr/bin/a], comm: [a], signal: [SEGV]", "comm: [a], unit: [a.service]", None),
        ("trigger: [cores, cores2, manual]", "trigger: [kernel, manual]", None),
        ("comm: [recommendations-engine]", "", "step a: 'recommendations-engine' fits no command name"),
        ("comm: [a, recommendations-engine]", "", "step a: 'recommendations-engine' fits no command name"),
        ("exe: [engine]", "", "step a: 'engine' fits no executable"),
        ("unit: [nginx]", "", "step a: 'nginx' fits no unit"),
        ("signal: [KILL]", "", "step a: 'KILL' fits no crash: SIGKILL is none of the signals"),
        ("trigger: [off]", "", "step a: trigger off is off"),
        ("trigger: [kernel]", "", "step a: trigger kernel runs pipeline machine; it counts here only for"),
        ("", "exe: [/a]", None),
    ],
)
def test_warning_about_a_condition_that_never_holds(crash: str, machine: str, said: str | None, tmp_path: Path) -> None:
    """A step that can never run is reported while somebody is looking, not missed after a crash."""
    found = warned(plan_of(tmp_path, TWO_PIPELINES % (crash, machine)))
    assert len(found) == (said is not None)
    assert found == [] or (said is not None and found[0].partition(" ")[2].startswith(said))


def test_warning_about_a_condition_that_only_triggers_of_other_pipelines_can_meet(tmp_path: Path) -> None:
    """Pressure has no executable; it is known only if a crash is reported at the same time."""
    text = (TWO_PIPELINES % ("", "exe: [/a]")).replace("kernel_log", "memory_pressure")
    (found,) = warned(plan_of(tmp_path, text))
    said = "step b runs only for a crash that cores or cores2 reports as well: kernel and starving cannot tell"
    assert said in found


def test_warning_about_a_fact_that_no_trigger_knows(tmp_path: Path) -> None:
    """Memory pressure is about no process, and so is a run by hand."""
    text = FILE.replace("type: core_files, paths: [/var/crash]", "type: memory_pressure")
    text = text.replace("proc_files}", "proc_files, when: {unit: [a.service], signal: [KILL]}}")
    reason = "step memory never runs: cores cannot tell the"
    assert warned(plan_of(tmp_path, text)) == [f"7:58 {reason} unit", f"7:79 {reason} signal"]


def test_warning_about_signals_that_the_rules_leave_out(tmp_path: Path) -> None:
    """The rules of a trigger and the conditions of its pipeline are read together."""
    rules = "type: process_exits, rules: [{signals: [KILL]}, {comm: [%s], exe: [%s], signals: [TERM]}]"
    text = FILE.replace("type: core_files, paths: [/var/crash]", rules)
    text = text.replace("proc_files}", "proc_files, when: {signal: [KILL, TERM, SEGV]}}")
    (found,) = warned(plan_of(tmp_path, text % ("good-name", "/opt/good")))
    assert found.startswith("7:73 step memory: 'SEGV' fits no crash")
    found, other, _ = warned(plan_of(tmp_path, text % ("far-too-long-a-name", "bad")))
    assert found.startswith("3:73 'far-too-long-a-name' fits no command name")
    assert other.startswith("3:101 'bad' fits no executable")


def test_warning_about_a_rule_that_no_exit_matches(tmp_path: Path) -> None:
    """Success is no crash, and a status has eight bits."""
    rules = "type: process_exits, rules: [{signals: [], statuses: [1, 0, 256]}, {signals: []}, {statuses: [255]}]"
    found = warned(plan_of(tmp_path, FILE.replace("type: core_files, paths: [/var/crash]", rules)))
    assert [one.partition(" ")[2] for one in found] == [
        "an exit with status 0 is never reported",
        "an exit with status 256 is never reported",
        "no exit matches this rule",
    ]


def test_warnings_of_the_shipped_files_say_nothing_of_conditions() -> None:
    """Each step that is shipped can run."""
    for path in sorted((Path(__file__).parents[3] / "config").glob("*.yaml")):
        assert warned(prepare(str(path), TRIGGERS)) == []


def test_warning_of_a_program_that_cannot_run_or_that_others_can_change(tmp_path: Path) -> None:
    """Root would run it; each is named with its line. One that is well is not."""
    loose = tmp_path / "ship"
    loose.write_text("#!/bin/sh\n")
    loose.chmod(0o777)
    step = "      - {{id: {0}, collector: command, with: {{argv: [{1}, x]}}}}\n"
    steps = [step.format("gone", "/nowhere/tool"), step.format("folder", "/usr"), step.format("well", "/bin/true")]
    text = FILE + "".join(steps) + f'on_archived: {{argv: [{loose}, "{{path}}"]}}\n'
    plan = plan_of(tmp_path, text)
    bad = survey(plan, is_root=True, environ={}).bad_programs
    said = [str(one) for one in warnings_of(plan, msgspec.structs.replace(MACHINE, bad_programs=bad))]
    gone, folder, loose_one = [line.partition("c.yaml:")[2].partition(" (")[0] for line in said]
    assert gone == "8:54: warning: '/nowhere/tool' cannot run: No such file or directory"
    assert folder == "9:56: warning: '/usr' cannot run: it is not an executable file"
    assert loose_one.startswith("11:22: warning: ")
    assert loose_one.endswith(" must not run as it is: mode 0777 lets others change it")


def test_warnings_of_a_draft_go_on_after_pipelines_that_do_not_exist(tmp_path: Path) -> None:
    """`doctor` judges what can be read of a file with mistakes."""
    text = FILE.replace("pipeline: crash", "remove: archived, pipeline: crahs")
    (tmp_path / "c.yaml").write_text(f"{text}storm: {{over_budget: {{pipeline: breif}}}}\n")
    plan = draft(str(tmp_path / "c.yaml"), TRIGGERS)
    assert {one.message for one in plan.warnings} >= {"there is no pipeline 'crahs'", "there is no pipeline 'breif'"}
    assert set(warnings_of(plan, MACHINE)) == set(plan.warnings)
    assert notes_of(plan, MACHINE) == ()
