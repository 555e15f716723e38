"""Verbs: what is mistyped, help in front, and `--config` before the verb."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.cli.main import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "collector.yaml"
    path.write_text("version: 1\npipelines: {crash: {steps: [{id: log, collector: dmesg}]}}\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("stauts", "`collector status`"),
        ("Status", "`collector status`"),
        ("stat", "`collector status`"),
        ("lst", "`collector list`"),
        ("core_pattern", "`collector core-pattern`"),
        ("check", "`collector config check`"),
        ("reload", "`collector config reload`"),
        ("config chekc", "`collector config check`"),
        ("config status", "`collector status`"),
        ("help docter", "`collector doctor`"),
    ],
)
def test_verb_that_is_mistyped_gets_a_suggestion(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it is a verb of another group, or only its beginning."""
    assert run(*typed.split()) == 64
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("version", "use `collector --version`"),
        ("restart", "use `systemctl restart collector`"),
        ("--json status", "options of a command stand after it: `collector status --json`"),
    ],
)
def test_what_is_done_otherwise_is_said(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A verb that sounds like it would be a wrong guess."""
    assert run(*typed.split()) == 64
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["xyzzy", "config xyzzy", "x" * 10_000])
def test_verb_that_nobody_knows_is_refused_with_where_they_are_listed(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong guess is worse than none."""
    assert run(*typed.split()) == 64
    assert "--help` lists them" in capsys.readouterr().err


def test_option_that_is_mistyped_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    """click knows the options."""
    assert run("status", "--jsno") == 64
    assert "Did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["help", "config", "check"], ["config", "check", "-h"]])
def test_help_may_stand_in_front(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`collector help VERB` is what `collector VERB --help` is."""
    assert run(*arguments) == 0
    assert capsys.readouterr().out.startswith("Usage: collector config check [OPTIONS] [PATH]")


@pytest.mark.parametrize(
    "arguments", ["--config {0} config check", "config --config {0} check", "--config {0} config check --config {0}"]
)
def test_config_may_stand_before_the_verb(arguments: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it stands, it means the same."""
    assert run(*arguments.format(config).split(), "--no-environment") == 0
    assert capsys.readouterr().out == f"{config}: ok\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--config {0} config check --config /other", "--config is given twice"),
        ("--config {0} config --config /other check", "--config is given twice"),
        ("--config {0} copy a b", "`collector copy` reads no configuration"),
        ("config --config {0} schema", "`collector config schema` reads no configuration"),
    ],
)
def test_config_that_would_be_ignored_is_refused(
    arguments: str, said: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two files one would be ignored; a verb that reads none would ignore it."""
    assert run(*arguments.format(config).split()) == 64
    assert said in capsys.readouterr().err
