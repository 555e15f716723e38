"""Turns an archived incident into its story: the facts for its screen, its page and its export."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from collector.archive import directory, handover, layout, tree
from collector.archive.read import ArchiveReader, UnderWay
from collector.model.case import merge
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest
from collector.model.marker import SYSTEM_UNIT, Marker
from collector.model.text import printable
from collector.report.cause import cause_of
from collector.report.core_facts import CoreFacts
from collector.report.documents import Documents, records_of
from collector.report.frames import crash_trace
from collector.report.kept import kept, missing
from collector.report.kernel_words import kernel_lines
from collector.report.last_words import last_words
from collector.report.left_out import left_out_steps, without_steps
from collector.report.limits import limits_met
from collector.report.memory_then import memory_then
from collector.report.next_steps import next_steps
from collector.report.repeats import repeats
from collector.report.story import Story, Subject, ToldHandover, Witness
from collector.report.text import one_line, utc

SHOWN = 300
"""Maximum characters of a name."""

OUTPUT_SHOWN = 4096


def tell(
    archive: ArchiveReader,
    incident: str,
    *,
    ledger: bool = True,
    brief: bool = False,
    cause_only: bool = False,
    left_out: Collection[str] = (),
) -> Story:
    """
    Return the story of an incident, sealed or not.

    What of its evidence is damaged is named in `Story.missing`; the rest is told.

    Args:
        archive: The archive.
        incident: The incident's id.
        ledger: Whether to count repeats with the ledger, which only root's archive has.
        brief: The backtrace may take a second, and needs only the thread that crashed.
        cause_only: Leave out the backtrace and the repeats, which take 120 ms of an archive of 500 incidents.
        left_out: Steps that are not told, as `without_steps` does; each is named in `Story.missing`.

    Raises:
        ArchiveError: If there is no such incident, or neither its manifest nor its header can be read.
    """
    found = without_steps(archive.read(incident), left_out)
    sealed = isinstance(found, Manifest)
    name = incident if sealed else incident + layout.PARTIAL
    try:
        with directory.opened(name, archive.fd) as fd:
            documents = Documents(fd, found.steps, records_of(found, fd))
            writing_bytes = 0 if sealed else tree.writing(fd)
            story = _told(
                archive,
                found,
                documents,
                ledger=ledger,
                brief=brief,
                cause_only=cause_only,
                writing_bytes=writing_bytes,
            )
            return replace(story, missing=(left_out_steps(left_out), *story.missing)) if left_out else story
    except OSError as exc:
        raise ArchiveError(f"incident {incident} cannot be read: {exc.strerror}") from exc


def _told(
    archive: ArchiveReader,
    found: Manifest | UnderWay,
    documents: Documents,
    *,
    ledger: bool,
    brief: bool,
    cause_only: bool,
    writing_bytes: int,
) -> Story:
    marker = merge(found.markers)
    core = documents.document("core", "core.json", CoreFacts) or CoreFacts()
    kernel, limits, held = kernel_lines(documents, marker), limits_met(documents), kept(documents, core)
    counted = (
        None
        if cause_only
        else repeats(
            archive,
            found.id,
            marker,
            signature=core.signature,
            summary=documents.path("core", "core.json"),
            ledger=ledger,
        )
    )
    trace = crash_trace(archive, found, core, brief=brief) if isinstance(found, Manifest) and not cause_only else None
    story = Story(
        id=found.id,
        state=found.state,
        path=f"{archive.path}/{found.id}{'' if isinstance(found, Manifest) else layout.PARTIAL}",
        pipeline=printable(found.pipeline, limit=SHOWN),
        at=utc(found.started_s),
        ended=utc(found.ended_s) if isinstance(found, Manifest) else None,
        host=printable(found.host, limit=SHOWN),
        kernel=printable(found.kernel, limit=SHOWN),
        owner=printable(found.owner, limit=SHOWN),
        over_budget=printable(found.over_budget, limit=SHOWN),
        left_out=tuple(printable(one.id, limit=SHOWN) for one in found.left_out) if found.over_budget else (),
        labels={printable(name, limit=SHOWN): printable(text, limit=SHOWN) for name, text in found.labels.items()},
        machine_id=printable(found.machine_id, limit=SHOWN),
        boot_id=printable(found.boot_id, limit=SHOWN),
        handover=_handover(archive, found.id),
        gap_s=next((one.gap_s for one in found.continued), None) if isinstance(found, Manifest) else None,
        subject=_subject(marker, core, documents),
        cause=cause_of(found.markers, core, kernel, limits),
        kept=held,
        writing_bytes=writing_bytes,
        trace=trace,
        threads=max(core.threads, 0),
        signature=printable(core.signature, limit=SHOWN),
        signature_of=printable(core.signature_of),
        crash_key=printable(core.crash_key, limit=SHOWN),
        build_id=printable(core.build_id, limit=SHOWN),
        said=last_words(documents, marker),
        kernel_lines=kernel,
        limits=tuple(limit.sentence for limit in limits),
        memory=memory_then(documents),
        missing=missing(found, documents),
        witnesses=tuple(map(_witness, found.markers)),
        repeats=counted,
    )
    return replace(story, next=next_steps(story))


def _handover(archive: ArchiveReader, incident: str) -> ToldHandover | None:
    record = handover.read(incident, archive.fd)
    if record is None:
        return None
    return ToldHandover(
        state=record.state,
        tries=record.tries,
        at=utc(record.at_s) if record.tries else None,
        exit_status=record.exit_status,
        reason=printable(record.reason, limit=SHOWN),
        output=one_line(record.output, limit=OUTPUT_SHOWN),
    )


def _subject(marker: Marker, core: CoreFacts, documents: Documents) -> Subject:
    pid = marker.process.pid if marker.process else None
    unit = marker.unit or marker.attributes.get(SYSTEM_UNIT, "")
    return Subject(
        comm=one_line(marker.comm or core.command or _comm(documents, pid), limit=SHOWN),
        pid=pid,
        exe=printable(marker.exe or "", limit=SHOWN),
        unit=printable(unit, limit=SHOWN),
        uid=marker.uid,
    )


def _comm(documents: Documents, pid: int | None) -> str:
    """Return the name of a process that lived when a run by hand collected it."""
    path = documents.path("process", f"{pid}/comm")
    return documents.data(path)[:SHOWN].decode("utf-8", "replace") if path else ""


def _witness(marker: Marker) -> Witness:
    return Witness(
        trigger=printable(marker.trigger, limit=SHOWN),
        at=utc(marker.at_s),
        said=one_line(marker.reason, limit=SHOWN),
        doubtful=marker.doubtful or not marker.attributed,
    )
