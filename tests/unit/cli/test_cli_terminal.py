"""Colours of a screen."""

from __future__ import annotations

import pytest

from collector.cli.terminal import write
from collector.report.screen import BAD, HEAD, ScreenLine

NAMES = ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE")


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        ({}, False),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"CLICOLOR_FORCE": "0"}, False),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_in_a_pipe_only_if_they_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environ: dict[str, str], coloured: bool
) -> None:
    """`collector show | less -R`."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    write(ScreenLine("", "engine[1]", HEAD))
    write(ScreenLine("MISSING", "core", BAD))
    plain = "engine[1]\nMISSING  core\n"
    painted = "\033[1mengine[1]\033[0m\n\033[1;31mMISSING  \033[0mcore\n"
    assert capsys.readouterr().out == (painted if coloured else plain)
