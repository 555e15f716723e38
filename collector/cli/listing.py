"""``collector list``: what is in the archive."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from collector.archive.read import RUNNING, ArchiveReader
from collector.archive.summary import IncidentSummary
from collector.cli.asked import told_summaries
from collector.cli.options import ID_END, archive_options, archive_path, last_rows_options, taken
from collector.cli.running import RunProgress, running_now
from collector.cli.table import TableColumn, echo_table, terminal_columns
from collector.cli.text import printable, size
from collector.cli.time_range import TimeRange, time_range, time_range_options
from collector.model.errors import ArchiveError, DeniedError
from collector.report.grouping import IncidentGroup, grouped
from collector.report.signatures import SameCrash, completed, how_it_ended, same_crash
from collector.report.text import local, utc

NO_MATCH = 1

COLUMNS = (
    TableColumn("ID"),
    TableColumn("TIME"),
    TableColumn("PID", right=True),
    TableColumn("UID", right=True, rank=4),
    TableColumn("SIG"),
    TableColumn("STATE", rank=1),
    TableColumn("SIZE", right=True, rank=3),
    TableColumn("EXE", elastic=True),
    TableColumn("UNIT", elastic=True, rank=2),
    TableColumn("MISSING", elastic=True),
)
GROUP_COLUMNS = (
    TableColumn("COUNT", right=True),
    TableColumn("FIRST", rank=4),
    TableColumn("LAST"),
    TableColumn("SIG"),
    TableColumn("NAME", elastic=True),
    TableColumn("USERS", elastic=True, rank=2),
    TableColumn("UNITS", elastic=True, rank=3),
    TableColumn("LATEST", rank=1),
    TableColumn("SAME", elastic=True),
)


@click.command("list")
@click.argument("matches", metavar="[MATCH]...", nargs=-1)
@time_range_options
@last_rows_options
@click.option("--group", is_flag=True, help="Count the incidents of the same crash instead, by the core's signature.")
@archive_options
def list_command(
    *,
    matches: tuple[str, ...],
    since: str | None,
    until: str | None,
    last: int | None,
    newest_first: bool,
    no_legend: bool,
    group: bool,
    archive: str | None,
    config: str | None,
    as_json: bool,
) -> int:
    """
    List the incidents in the archive. Oldest first, including those in progress.

    MATCH is a PID, a command, an executable's path, a unit, a signal (SIGSEGV, SEGV, 11), a signature, the start or the
    end of an id, or KEY=VALUE, such as UID=1000, MISSING=core or label.role=engine; * and ? stand for any text. Of one
    kind, any may fit; of each kind given, one has to. Exit status 1 if none does, 73 if an incident cannot be read.
    """
    limits = time_range(since, until)
    try:
        with ArchiveReader(archive_path(config, archive)) as opened:
            found = [one if isinstance(one, str) else completed(opened, one) for one in opened.summaries()]
            known = _chosen(opened, found, matches, limits)
            signed = {one.id: same_crash(opened, one) for one in known} if group or as_json else {}
    except DeniedError:
        if (told := told_summaries(config, archive)) is None:
            raise
        found, known = told, _chosen(None, told, matches, limits)
        signed = {one.id: same_crash(None, one) for one in known}
    problems = [one for one in found if isinstance(one, str)]
    shown = taken(known, last, newest_first=newest_first)
    if group:
        _show_groups(grouped(reversed(shown) if newest_first else shown, lambda one: signed[one.id]), problems,
                     legend=not no_legend, as_json=as_json)  # fmt: skip
    else:
        progress = running_now(config, [one for one in shown if one.state == RUNNING])
        if as_json:
            incidents = [_document(one, signed[one.id], progress.get(one.id)) for one in shown]
            click.echo(msgspec.json.encode({"incidents": incidents, "problems": problems}))
        elif shown:
            echo_table(COLUMNS, _rows(shown, progress), legend=not no_legend)
    return _status(known, problems, as_json=as_json, is_limited=bool(matches) or limits.is_limited)


def _chosen(
    opened: ArchiveReader | None, found: Sequence[IncidentSummary | str], matches: tuple[str, ...], limits: TimeRange
) -> list[IncidentSummary]:
    known = [one for one in found if isinstance(one, IncidentSummary) and limits.holds(one.started_s)]
    if not matches:
        return known
    from collector.cli.matches import fits, parse_match  # noqa: PLC0415 - most lists are of everything

    wanted = [parse_match(text) for text in matches]
    return [one for one in known if fits(one, wanted, lambda one=one: same_crash(opened, one).key)]  # type: ignore[misc]


def _status(known: list[IncidentSummary], problems: list[str], *, as_json: bool, is_limited: bool) -> int:
    """Say on standard error what cannot be read, or that there is nothing; return the exit status."""
    if not as_json:
        for problem in problems:
            click.echo(f"collector: {printable(problem)}", err=True)
    if problems:
        return ArchiveError.exit_code
    if not known and not as_json:
        click.echo("no incident matches" if is_limited else "the archive is empty", err=True)
    return NO_MATCH if is_limited and not known else 0


def _rows(known: list[IncidentSummary], progress: dict[str, RunProgress]) -> list[list[str]]:
    on_terminal = terminal_columns() is not None
    ends = {one.id[-ID_END:] for one in known}
    cut = on_terminal and len(ends) == len(known)
    return [
        [
            one.id[-ID_END:] if cut else one.id,
            local(utc(one.started_s)),
            "" if one.pid is None else str(one.pid),
            "" if one.uid is None else str(one.uid),
            how_it_ended(one.signal, one.exit_status, one.event),
            str(one.state),
            size(one.size_bytes),
            _subject(one, whole=not on_terminal),
            one.unit or "",
            progress[one.id].said if one.id in progress else missing_text(one, whole=not on_terminal),
        ]
        for one in known
    ]


def _subject(one: IncidentSummary, *, whole: bool) -> str:
    """Return whom an incident is about, or if that is nobody, why there is one."""
    exe = (one.exe or "") if whole else (one.exe or "").rpartition("/")[2]
    return exe or one.comm or (f"{one.trigger}: {one.reason}" if one.unit is None else "")


def missing_text(one: IncidentSummary, *, whole: bool) -> str:
    """Return the steps that are missing, or that there was no budget; *whole*: each with its status and the reason."""
    if not whole:
        return ", ".join(("over budget",) * bool(one.over_budget) + tuple(missing.step for missing in one.missing))
    beyond = (f"over budget: {one.over_budget}",) * bool(one.over_budget)
    return "; ".join(
        (*beyond, *(": ".join(filter(None, (part.step, part.status, part.reason))) for part in one.missing))
    )


def _document(one: IncidentSummary, same: SameCrash, progress: RunProgress | None) -> dict[str, object]:
    known = msgspec.structs.asdict(one) | {"at": utc(one.started_s), "ended": utc(one.ended_s or 0.0)}
    del known["started_s"], known["ended_s"]
    return known | {"same_crash": same._asdict(), "running": progress}


def _show_groups(groups: list[IncidentGroup], problems: list[str], *, legend: bool, as_json: bool) -> None:
    if as_json:
        documents = [
            msgspec.structs.asdict(group) | {"first": utc(group.first_s), "last": utc(group.last_s)} for group in groups
        ]
        for document in documents:
            del document["first_s"], document["last_s"]
        click.echo(msgspec.json.encode({"groups": documents, "problems": problems}))
        return
    on_terminal = terminal_columns() is not None
    rows = [
        [
            str(group.count),
            local(utc(group.first_s)),
            local(utc(group.last_s)),
            group.ended_by,
            group.name,
            ", ".join(group.users),
            ", ".join(group.units),
            group.latest[-ID_END:] if on_terminal else group.latest,
            group.key if group.by == "signature" else f"{group.by}: {group.key}",
        ]
        for group in groups
    ]
    if rows:
        echo_table(GROUP_COLUMNS, rows, legend=legend)
