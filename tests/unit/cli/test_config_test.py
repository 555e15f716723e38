"""`collector config test`: crashes in a file, and what must become of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli.main import cli, main

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "testing-the-configuration.md").read_text(encoding="utf-8")
CONFIG = """\
version: 1
triggers:
  - id: deaths
    type: process_exits
    rules: [{signals: [SEGV], exe: ["/opt/*"]}, {signals: [], statuses: [3], unit: [feeder.service]}]
    pipeline: crash
  - {id: cores, type: core_files, paths: ["/var/*/core"], recursive: 1, exclude: ["*.tmp"], unprivileged: refuse,
     pipeline: crash}
  - {id: exits, type: exit_files, paths: [/run/exits], pipeline: crash}
  - {id: kernel, type: kernel_log, events: [oom_kill], pipeline: brief}
  - {id: held, type: kernel_cores, refuse: [{comm: [chrome]}], pipeline: crash}
  - {id: told, type: notify, uids: [7], pipeline: crash}
  - {id: off, type: notify, enabled: false, pipeline: crash}
pipelines:
  crash:
    steps:
      - {id: memory, collector: proc_files}
      - {id: core, collector: core}
      - {id: engine_log, collector: dmesg, when: {unit: [engine.service]}}
      - {id: oom, collector: dmesg, when: {trigger: [kernel]}}
      - {id: disabled, collector: dmesg, enabled: false}
  brief:
    steps: [{id: table, collector: process_table}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "collector.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def tried(config: Path, crash: str, *options: str) -> Result:
    file = config.parent / "crashes.yaml"
    file.write_text(f"version: 1\ncrashes:\n  - {{name: one, {crash}}}\n", encoding="utf-8")
    return CliRunner().invoke(
        cli, ["config", "test", str(file), "--config", str(config), *options], standalone_mode=False
    )


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def test_config_test_page_is_what_the_shipped_file_does(tmp_path: Path) -> None:
    """The example is the documentation, and the first test that somebody copies."""
    file = tmp_path / "crashes.yaml"
    file.write_text(blocks("yaml")[0], encoding="utf-8")
    config = tmp_path / "collector.yaml"
    config.write_text((ROOT / "config" / "collector.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    command = ["config", "test", str(file), "--config", str(config)]
    result = CliRunner().invoke(cli, command, standalone_mode=False)
    assert (result.return_value, result.output) == (0, blocks("")[0])
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.yaml").write_text(
        "pipelines: {crash: {steps: [{id: segments, when: {unit: [feeder.service]}}]}}\n", encoding="utf-8"
    )
    result = CliRunner().invoke(cli, command, standalone_mode=False)
    assert result.return_value == 3
    assert blocks("")[1] in result.output.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("crash", "problem"),
    [
        ("trigger: deaths, exe: /opt/x, signal: SEGV, expect: {pipeline: crash, only: [memory, core]}", None),
        (
            "trigger: deaths, exe: /opt/x, signal: SEGV, unit: engine.service, expect: {steps: [engine_log]}",
            None,
        ),
        ("trigger: deaths, exe: /usr/x, signal: SEGV, expect: {noticed: false}", None),
        ("trigger: deaths, unit: feeder.service, status: 3, expect: {steps: [memory]}", None),
        (
            "trigger: deaths, unit: feeder.service, status: 4, expect: {steps: [memory]}",
            "it is not noticed: none of its rules is about an end by status 4 of feeder.service",
        ),
        (
            "trigger: deaths, signal: SEGV, expect: {}",
            "not noticed: none of its rules is about an end by SIGSEGV",
        ),
        (
            "trigger: deaths, exe: /opt/x, signal: SEGV, expect: {noticed: false}",
            "it is noticed, and runs",
        ),
        ("trigger: deaths, exe: /opt/x, signal: SEGV, expect: {pipeline: brief}", "pipeline crash runs, not brief"),
        ("trigger: deaths, exe: /opt/x, signal: SEGV, expect: {without: [core]}", "step core runs"),
        ("trigger: deaths, exe: /opt/x, signal: SEGV, expect: {only: [memory]}", "step core runs"),
        (
            "trigger: deaths, exe: /opt/x, signal: SEGV, unit: x.service, expect: {steps: [engine_log]}",
            "step engine_log does not run: unit is 'x.service', not engine.service",
        ),
        (
            "trigger: deaths, exe: /opt/x, signal: SEGV, expect: {steps: [table]}",
            "step table does not run: pipeline crash has no such step, or it is off",
        ),
        ("trigger: deaths, exe: /opt/x, signal: SEGV, expect: {steps: [disabled]}", "has no such step, or it is off"),
        ("trigger: deaths, exe: /opt/x, signal: SEGV, also: [kernel], expect: {steps: [oom]}", None),
        ("trigger: cores, file: /var/a/core/core.1, expect: {steps: [core]}", None),
        ("trigger: cores, file: /var/a/core/sub/core.1, expect: {steps: [core]}", None),
        ("trigger: cores, file: /var/a/b/core/core.1, expect: {}", "it watches /var/*/core, not /var/a/b/core"),
        ("trigger: cores, file: /var/a/core/x.1, expect: {}", "x.1 matches none of core*, *.core, *.crash"),
        ("trigger: cores, file: /var/a/core/core.tmp, expect: {}", "core.tmp is excluded by *.tmp"),
        ("trigger: cores, uid: 1000, expect: {}", "it refuses what is uid 1000's"),
        ("trigger: cores, signal: TERM, expect: {}", "it does not report a death by SIGTERM"),
        ("trigger: exits, file: /run/exits/.x, expect: {noticed: false}", None),
        ("trigger: kernel, event: oom_kill, expect: {only: [table]}", None),
        ("trigger: kernel, event: oops, expect: {}", "its events are oom_kill, not oops"),
        ("trigger: held, comm: chrome, expect: {}", "one of its `refuse` rules is about this process"),
        ("trigger: told, uid: 8, expect: {}", "it refuses what is uid 8's"),
        ("trigger: told, uid: 7, expect: {}", None),
        ("trigger: off, expect: {}", "it is not noticed: the trigger is off"),
        ("trigger: manual, expect: {without: [core]}", None),
    ],
)
def test_config_test_tells_what_is_not_as_expected(config: Path, crash: str, problem: str | None) -> None:
    """Whether the crash is noticed, which pipeline runs, and which of its steps, by the rules of each trigger."""
    result = tried(config, crash)
    assert result.return_value == (3 if problem else 0), result.output
    assert result.output.startswith("FAILED  one (" if problem else "ok      one: ")
    assert (problem or "") in result.output


@pytest.mark.parametrize(
    ("crash", "said"),
    [
        ("trigger: deths, expect: {}", "3:26: error: there is no trigger 'deths' (did you mean deaths?)"),
        ("trigger: deaths, also: [kernl], expect: {}", "3:41: error: there is no trigger 'kernl'"),
        ("trigger: deaths, expect: {without: [cor]}", "3:53: error: there is no step 'cor' (did you mean core?)"),
        ("trigger: deaths, expect: {pipeline: crsh}", "3:53: error: there is no pipeline 'crsh'"),
        ("trigger: deaths, signal: SIGSEVG, expect: {}", "3:42: error: there is no signal 'SIGSEVG' (did you mean S"),
        ("trigger: kernel, event: oom, expect: {}", "3:41: error: `event` cannot be 'oom' (did you mean oom_kill?)"),
        ("trigger: deaths, expct: {}", "error: 'expct' is not a key of"),
        ("trigger: deaths", "crash needs `expect`"),
    ],
)
def test_config_test_of_what_does_not_exist_is_a_mistake(
    config: Path, crash: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """That a misspelt step must not run would always be true."""
    file = config.parent / "crashes.yaml"
    file.write_text(f"version: 1\ncrashes:\n  - {{name: one, {crash}}}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["config", "test", str(file), "--config", str(config)])
    assert caught.value.code == 78
    assert said in capsys.readouterr().err


def test_config_test_of_nothing_is_a_mistake(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file from which all crashes were removed would always pass."""
    file = config.parent / "crashes.yaml"
    file.write_text("version: 1\ncrashes: []\n", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["config", "test", str(file), "--config", str(config)])
    assert caught.value.code == 78
    assert "2:10: error: there is no crash to try" in capsys.readouterr().err


def test_config_test_json_has_the_outcome(config: Path) -> None:
    """One document, for whoever renders it."""
    result = tried(config, "trigger: deaths, exe: /opt/x, signal: SEGV, expect: {only: [memory]}", "--json")
    document = json.loads(result.stdout)
    (crash,) = document["crashes"]
    assert (result.return_value, document["ok"], crash["line"]) == (3, False, 3)
    assert (crash["pipeline"], crash["steps"], crash["problems"]) == ("crash", ["memory", "core"], ["step core runs"])
    assert set(crash["left_out"]) == {"engine_log", "oom"}
