"""
What a SIGBUS was: mostly a page of a mapped file that could not be had.

Source: filemap_fault() in mm/filemap.c, shmem_fault() in mm/shmem.c, hugetlb_no_page() in mm/hugetlb.c (Linux 6.18).
"""

from __future__ import annotations

from collector.collectors.core.diagnosis import Diagnosis, DiagnosisKind
from collector.collectors.core.diagnosis_facts import CLOCK_STEP_NS, CrashFacts, MappedFileState, shown
from collector.host.elfcore import MappedFile
from collector.host.filesystem import HUGETLBFS, TMPFS
from collector.host.memory import PAGE_BYTES, page

ANONYMOUS_HUGE = b"/anon_hugepage"


def bus(facts: CrashFacts) -> Diagnosis | None:
    """Return what a SIGBUS of the kernel was; ``None`` if the facts do not allow to say."""
    address = facts.address
    if address is None:
        return None
    code, at = facts.signal.code_name, f"{address:#x}"
    file = facts.file(address)
    in_file = f" ({facts.place(address)})" if file is not None else ""
    if code in {"BUS_MCEERR_AR", "BUS_MCEERR_AO"}:
        text = f"hardware memory error at {at}{in_file}"
        # BUS_MCEERR_AO comes to whoever asked for it, wherever its code is.
        return Diagnosis(DiagnosisKind.HARDWARE_MEMORY, text + (facts.by if code == "BUS_MCEERR_AR" else ""))
    if code == "BUS_ADRALN":
        where = f" at {at}{in_file}" if address else ""  # x86 does not say where
        return Diagnosis(DiagnosisKind.MISALIGNED, f"misaligned access{where}{facts.by}")
    if code != "BUS_ADRERR" or file is None:
        return None
    return _file_page(facts, file, file.offset + page(address) - file.start)


def _file_page(facts: CrashFacts, file: MappedFile, page: int) -> Diagnosis:
    """Return why the page of *file* at offset *page* could not be had."""
    name = shown(file.path)
    at = f"{facts.access} at byte {page + (facts.address or 0) % PAGE_BYTES} of {name}"
    if file.path.startswith(ANONYMOUS_HUGE):
        text = f"{facts.access} at {facts.address:#x} in huge pages of its own, of which the kernel had none to give"
        return Diagnosis(DiagnosisKind.HUGE_PAGES, text + facts.by)
    state = facts.file_state(file)
    found = None if state is None else _by_state(state, page)
    if state is None or found is None:
        text = f"{at}, which is past its end, or in a page that its file system could not provide"
        return Diagnosis(DiagnosisKind.FILE_PAGE, text + facts.by)
    kind, why = found
    where = "within its" if page < state.size_bytes else "which is past its"
    return Diagnosis(kind, f"{at}, {where} {state.size_bytes} bytes: {why}{facts.by}")


def _by_state(state: MappedFileState, page: int) -> tuple[DiagnosisKind, str] | None:
    """
    Return why a page could not be had, by the state of its file; ``None`` if that may be another than at the crash.

    That the file system is full stays so for a while, and a process that fills a file changes it all the time.
    """
    if page >= state.size_bytes:
        cut = "it was cut since it was mapped, or mapped further than it goes"
        return None if (state.changed_ns or 0) > 0 else (DiagnosisKind.PAST_END_OF_FILE, cut)
    if state.free_bytes is not None and state.free_bytes < PAGE_BYTES and state.file_system != HUGETLBFS:
        kind = DiagnosisKind.TMPFS_FULL if state.file_system == TMPFS else DiagnosisKind.FILE_SYSTEM_FULL
        return kind, f"its {state.file_system} is full"
    if state.changed_ns is not None and state.changed_ns > -CLOCK_STEP_NS:
        return None
    if state.file_system == HUGETLBFS:
        return DiagnosisKind.HUGE_PAGES, "there was no huge page for it"
    return DiagnosisKind.FILE_PAGE, f"its {state.file_system} could not provide the page"
