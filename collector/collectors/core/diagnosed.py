"""The diagnosis in ``core.json``."""

from __future__ import annotations

from collections.abc import Callable

from collector.collectors.base import Context
from collector.collectors.core.diagnosis import Diagnosis
from collector.collectors.core.diagnosis_facts import CrashFacts, MappedFileState
from collector.collectors.core.diagnosis_of import diagnose, with_line
from collector.collectors.core.image import CoreImage
from collector.collectors.core.summary import CoreSummary
from collector.collectors.core.traced import Traced
from collector.host.elfcore import MappedFile

FileState = Callable[[MappedFile], MappedFileState | None]
"""Looks at a mapped file as it is now."""


def add_diagnosis(
    summary: CoreSummary,
    ctx: Context,
    image: CoreImage | None = None,
    file_state: FileState | None = None,
    traced: Traced | None = None,
) -> None:
    """Add what the crash was, by its core if there is one, and by the kernel's line."""
    found = None
    if image is not None and file_state is not None:
        found = _by_core(summary, ctx, image, file_state, traced)
    found = with_line(found, ctx.marker)
    if found is not None:
        summary.diagnosis, summary.diagnosis_kind = found.text, found.kind


def _by_core(
    summary: CoreSummary, ctx: Context, image: CoreImage, file_state: FileState, traced: Traced | None
) -> Diagnosis | None:
    if image.signal is None:
        return None
    frames = traced.walks[0].frames if traced is not None and traced.walks else ()
    facts = CrashFacts(
        image=image,
        signal=image.signal,
        pid=summary.pid,
        thread=summary.crashed_thread,
        state=next(iter(image.threads), None),
        file_state=file_state,
        handlers=frozenset(frame.handler_sp for frame in frames if frame.handler_sp),
    )
    return diagnose(facts, ctx.redaction)
