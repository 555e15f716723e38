"""``collector show``: one incident."""

from __future__ import annotations

from collections.abc import Iterator

import click

from collector.archive.read import ArchiveReader
from collector.cli.completion import complete_ids, complete_incident_steps
from collector.cli.options import archive_options, archive_path
from collector.model.errors import UsageError


@click.command("show")
@click.argument("incident", metavar="[ID]", default="latest", shell_complete=complete_ids)
@click.argument("step", required=False, shell_complete=complete_incident_steps)
@click.option("--files", is_flag=True, help="List its files instead, or those of STEP.")
@click.option(
    "--steps", is_flag=True, help="List its steps instead: how each ended, how long it took, what it waited for."
)
@click.option("--stacks", is_flag=True, help="Show the backtraces of all threads of its core instead.")
@archive_options
def show_command(
    *,
    incident: str,
    step: str | None,
    files: bool,
    steps: bool,
    stacks: bool,
    archive: str | None,
    config: str | None,
    as_json: bool,
) -> int:
    """
    Show one incident on one screen. What crashed, why, what is kept, what is missing, and what to do next.

    ID may be the start or the end of an id; without one, it is the latest. With --json, its manifest, and its story
    under `story`.
    """
    if files + steps + stacks > 1:
        raise UsageError("--files, --steps and --stacks exclude each other")
    if step is not None and not files:
        raise UsageError("a step is shown with --files only", hint=f"`collector show {incident} {step} --files`")
    path = archive_path(config, archive)
    if stacks:
        from collector.cli.stacks import show_stacks  # noqa: PLC0415 - a screen starts without

        return show_stacks(incident, path, as_json=as_json)
    with ArchiveReader(path) as opened:
        known = opened.resolve(incident, unsealed=True)
        if as_json:
            _print_json(opened, known)
        elif files or steps:
            _print_lines(opened, known, step, files=files)
        else:
            _print_screen(opened, known)
    return 0


def _print_json(archive: ArchiveReader, incident: str) -> None:
    import msgspec  # noqa: PLC0415 - each way of showing has its own

    from collector.report.telling import tell  # noqa: PLC0415

    manifest = msgspec.to_builtins(archive.read(incident))
    click.echo(msgspec.json.encode({**manifest, "story": tell(archive, incident)}))


def _print_screen(archive: ArchiveReader, incident: str) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    from collector.cli.terminal import width, write  # noqa: PLC0415
    from collector.report.screen import head, screen  # noqa: PLC0415
    from collector.report.telling import tell  # noqa: PLC0415

    columns = width()
    said = head(tell(archive, incident, ledger=False, cause_only=True), columns)
    for line in said:  # whoever waits for libdw and 500 incidents sees at once what crashed
        write(line)
    lines = screen(tell(archive, incident, brief=True), width=columns, now=datetime.now(UTC))
    for line in lines[len(said) :]:
        write(line)


def _print_lines(archive: ArchiveReader, incident: str, step: str | None, *, files: bool) -> None:
    from collector.cli.step_lines import file_lines, step_lines  # noqa: PLC0415
    from collector.cli.terminal import page  # noqa: PLC0415

    found = archive.read(incident)
    lines: Iterator[str] = file_lines(found, step) if files else step_lines(found)
    page(lines)
