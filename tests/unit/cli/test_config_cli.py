"""`collector config`: exit statuses, what goes to which stream, JSON that is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli.main import cli, main

GOOD = """\
version: 1
archive: {{path: {directory}/archive}}
runtime: {{directory: {directory}/run}}
triggers:
  - {{id: cores, type: core_files, paths: [{directory}], pipeline: crash}}
pipelines:
  crash:
    steps:
      - {{id: log, collector: dmesg, when: {{signal: [SIGSEGV]}}}}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "collector.yaml"
    path.write_text(GOOD.format(directory=tmp_path))
    return path


@pytest.fixture
def harmful(good: Path) -> Path:
    good.write_text(good.read_text() + "copy: {rate: max}\n")
    return good


@pytest.fixture
def bad(good: Path) -> Path:
    good.write_text(good.read_text() + "copy: {rate: fast}\n")
    return good


def config(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments], standalone_mode=False)


def test_config_check_of_a_good_file_is_silent_but_for_ok(good: Path) -> None:
    """One line, on standard output."""
    result = config("check", str(good))
    assert (result.return_value, result.output) == (0, f"{good}: ok\n")


def test_config_check_of_a_bad_file_is_78(bad: Path) -> None:
    """Errors go to stderr, one line each, as compilers write them."""
    result = config("check", str(bad))
    assert result.return_value == 78
    assert result.stdout == ""
    assert result.stderr.startswith(f"{bad}:10:14: error: `rate`: 'fast' is not adaptive")


def test_config_check_warnings_are_errors_when_strict(harmful: Path) -> None:
    """A warning does not fail, unless it is asked to."""
    result = config("check", str(harmful))
    assert result.return_value == 0
    assert result.stderr.startswith(f"{harmful}:10:14: warning: at `max`")
    assert config("check", str(harmful), "--strict").return_value == 78


def test_config_check_strict_accepts_the_shipped_file(tmp_path: Path) -> None:
    """What a fleet checks at each roll-out is the shipped file first; notes about this machine are no failure."""
    shipped = Path(__file__).parents[3] / "config" / "collector.yaml"
    path = tmp_path / "collector.yaml"
    path.write_text(
        shipped.read_text(encoding="utf-8").replace("/var/lib/collector", f"{tmp_path}/archive")
        + f"runtime: {{directory: {tmp_path}/run}}\n",
        encoding="utf-8",
    )
    result = config("check", str(path), "--strict")
    assert result.return_value == 0, result.stderr
    assert ": warning: " not in result.stderr


def test_config_check_without_environment_judges_only_the_file(good: Path) -> None:
    """A build machine has other disks, and the file may be the group's."""
    good.write_text(good.read_text().replace(f"{good.parent}/archive", "/dev/shm/none"))
    good.chmod(0o664)
    seen = config("check", str(good), "--strict").stderr
    assert "'/dev/shm/none' is on tmpfs" in seen
    assert "mode 0664 lets others change it" in seen
    result = config("check", str(good), "--strict", "--no-environment")
    assert (result.return_value, result.stderr) == (0, "")


def test_config_check_without_environment_needs_no_machine(good: Path) -> None:
    """Neither /proc nor /dev/shm, nor root: a container in which a change is reviewed has none of them."""
    code = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).startswith(('/proc/', '/sys/', '/dev/shm')):\n"
        "        print('opened', arguments[0])\n"
        "from collector.cli.main import main\n"
        "import collector.cli.config_check\n"
        "sys.addaudithook(refuse)\n"
        f"main(['config', 'check', {str(good)!r}, '--no-environment'])\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, f"{good}: ok\n")


def test_config_check_takes_one_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two, it would check one and be silent about the other."""
    with pytest.raises(SystemExit) as caught:
        main(["config", "check", str(good), "--config", "/other.yaml"])
    assert (caught.value.code, "name two files" in capsys.readouterr().err) == (64, True)


def test_config_check_json_is_one_document(bad: Path) -> None:
    """With --json, stdout is one JSON document and nothing else."""
    result = config("check", str(bad), "--json")
    document = json.loads(result.stdout)
    assert (result.return_value, result.stderr, document["ok"]) == (78, "", False)
    (problem,) = document["problems"]
    assert (problem["file"], problem["line"], problem["column"], problem["severity"]) == (str(bad), 10, 14, "error")


def test_config_show_says_where_each_value_comes_from(good: Path) -> None:
    """A value of the file has its line; the others are defaults."""
    result = config("show", "--config", str(good))
    assert f"path: {good.parent}/archive" in result.stdout
    assert f"# {good}:2:17" in result.stdout
    assert "# default" in result.stdout


def test_config_show_json_has_values_and_origins(good: Path) -> None:
    """The same for programs."""
    document = json.loads(config("show", "--config", str(good), "--json").stdout)
    assert document["config"]["pressure"]["floor"] == "256MiB"
    assert document["origins"]["archive.path"] == f"{good}:2:17"
    assert document["origins"]["pressure.floor"] == "default"


def test_config_schema_is_the_shipped_one() -> None:
    """What the verb prints is what editors load."""
    shipped = Path(__file__).parents[3] / "config" / "collector.schema.json"
    assert config("schema").stdout == shipped.read_text()


def test_config_explain_tells_steps_and_conditions(good: Path) -> None:
    """Which steps would run for such a crash, and why others would not."""
    assert "PROCEED now" in config("explain", "cores", "--signal", "SEGV", "--config", str(good)).stdout
    other = config("explain", "cores", "--signal", "SIGABRT", "--config", str(good)).stdout
    assert "does not apply: signal is SIGABRT, not SIGSEGV" in other


def test_config_explain_checks_conditions_against_the_options(good: Path) -> None:
    """Command name, executable and unit meet conditions; the archive is where the disk is looked at."""
    when = "when: {comm: [engine], exe: [/usr/bin/*], unit: [engine.service]}"
    good.write_text(good.read_text().replace("when: {signal: [SIGSEGV]}", when))
    crash = ["explain", "cores", "--exe", "/usr/bin/engine", "--unit", "engine.service", "--config", str(good)]
    met = config(*crash, "--comm", "engine", "--archive", "/proc/none").stdout
    assert "does not apply" not in met
    assert "archived in /proc/none" in met
    assert "does not apply: comm is 'other', not engine" in config(*crash, "--comm", "other").stdout


def test_config_check_and_explain_agree_on_a_step_that_never_runs(good: Path) -> None:
    """Memory pressure is about no process: a step for one unit is reported, whatever the crash is said to be."""
    text = good.read_text().replace(f"type: core_files, paths: [{good.parent}]", "type: memory_pressure")
    good.write_text(text.replace("when: {signal: [SIGSEGV]}", "when: {unit: [engine.service]}"))
    checked = config("check", str(good))
    assert f"{good}:9:50: warning: step log never runs: cores cannot tell the unit" in checked.stderr
    told = config("explain", "cores", "--unit", "engine.service", "--config", str(good)).stdout
    assert "does not apply: cores cannot tell the unit" in told
    assert "PROCEED" not in told


def test_config_explain_json_holds_the_verdict(good: Path) -> None:
    """With the numbers that it rests on."""
    document = json.loads(config("explain", "cores", "--config", str(good), "--json").stdout)
    (step,) = document["steps"]
    assert step["verdict"]["step_class"] == "light"
    assert step["verdict"]["room_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["explain", "nobody"], 64),
        (["explain", "cores", "--signal", "SIGNOPE"], 64),
        (["explain", "--pid", "4194305"], 64),
        (["reload"], 69),
        (["show", "--nonsense"], 64),
    ],
)
def test_config_verbs_fail_with_the_documented_status(
    arguments: list[str], status: int, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every failure is one line, a hint, and the exit status of the documentation."""
    with pytest.raises(SystemExit) as caught:
        main(["config", *arguments, "--config", str(good)])
    assert caught.value.code == status
    assert capsys.readouterr().err


def test_config_show_of_a_bad_file_is_78(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All verbs refuse a bad file with the same words as `check`."""
    with pytest.raises(SystemExit) as caught:
        main(["config", "show", "--config", str(bad)])
    assert caught.value.code == 78
    assert f"{bad}:10:14: error:" in capsys.readouterr().err
