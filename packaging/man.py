"""
Write collector(1) from the commands' own help, and collector.yaml(5) from the reference page.

    python packaging/man.py DIRECTORY DATE

`collector` is what the interpreter finds by that name.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from roff import escaped, from_markdown

from collector import __version__
from collector.cli.main import cli

ROOT = Path(__file__).parents[1]
FILES = """
| | |
|---|---|
| `/etc/collector/collector.yaml` | What to collect; collector.yaml(5). |
| `/etc/collector/conf.d/*.yaml` | Changes to it, in the order of their names. |
| `/var/lib/collector` | The archive: one directory for each incident. |
| `/run/collector` | Sockets of the running daemon. |
| `/opt/collector/examples` | Drop-ins for systemd and sysctl, rules for Prometheus. |
| `/usr/share/doc/crash-collector` | README.md, and the pages that hints name, such as docs/operations.md. |
"""


def main() -> None:
    """Write both pages."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True)
    (directory / "collector.1").write_text(command_page(), encoding="utf-8")
    (directory / "collector.yaml.5").write_text(configuration_page(), encoding="utf-8")


def command_page() -> str:
    """Return collector(1): all verbs, the exit statuses of the README, and the files."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (statuses,) = re.findall(r"^\| exit status .*?(?=\n\n)", readme, re.MULTILINE | re.DOTALL)
    introduction = readme.split("\n\n")[2]
    return "".join(
        [
            title("collector", 1, str(cli.help)),
            ".SH SYNOPSIS\n.B collector\n.I command\n.RI [ options ]\n.PP\n.B collector\n.I command\n.B \\-\\-help\n",
            f".SH DESCRIPTION\n{from_markdown(introduction)}",
            ".SH COMMANDS\n",
            *(line for name, command in verbs(cli) for line in verb_section(name, command)),
            f".SH EXIT STATUS\n{from_markdown(statuses)}",
            f".SH FILES\n{from_markdown(FILES)}",
            ".SH SEE ALSO\n.BR collector.yaml (5),\n.BR core (5),\n.BR coredumpctl (1)\n",
        ]
    )


def configuration_page() -> str:
    """Return collector.yaml(5): the page docs/configuration.md."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    if spec is None or spec.loader is None:
        raise ImportError("docs/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    body = generate.page().partition("-->\n")[2]
    beginning = f".SH DESCRIPTION\n{from_markdown(body)}"
    end = ".SH SEE ALSO\n.BR collector (1)\n"
    return title("collector.yaml", 5, "What the collector collects, and how little that may cost.") + beginning + end


def title(name: str, section: int, summary: str) -> str:
    """Return how a page begins."""
    words = summary.splitlines()[0].rstrip(".")
    header = f'.TH {name.upper()} {section} {sys.argv[2]} "collector {__version__}"\n'
    return f"{header}.SH NAME\n{escaped(name)} \\- {escaped(words[0].lower() + words[1:])}\n"


def verbs(group: click.Group, *above: str) -> Iterator[tuple[str, click.Command]]:
    """Yield all commands below *group* with their whole names."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from verbs(command, *above, name)
        elif command is not None:
            yield " ".join((*above, name)), command


def verb_section(name: str, command: click.Command) -> Iterator[str]:
    """Yield the heading, help and options of a verb."""
    context = click.Context(command)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "collector {escaped(name)} {escaped(usage)}"\n'
    for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        yield ".PP\n" if number else ""
        as_written = paragraph.startswith("\b\n")
        text = "".join(f"{escaped(line)}\n" for line in paragraph.removeprefix("\b\n").splitlines())
        yield f".nf\n{text}.fi\n" if as_written else text
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            yield f".TP\n.B {escaped(record[0])}\n{escaped(' '.join(record[1].split()))}\n"


if __name__ == "__main__":
    main()
