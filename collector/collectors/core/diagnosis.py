"""A diagnosis: what a crash was, in one sentence that says only facts."""

from __future__ import annotations

import enum
from typing import NamedTuple


class DiagnosisKind(enum.StrEnum):
    """What sort of crash it was; the values are stable."""

    NULL_POINTER = "null_pointer"
    NULL_CALL = "null_call"
    NEGATIVE_ADDRESS = "negative_address"
    KERNEL_ADDRESS = "kernel_address"
    UNMAPPED = "unmapped"
    PAST_MAPPING = "past_mapping"
    NO_ACCESS = "no_access"
    WRITE_READ_ONLY = "write_read_only"
    EXECUTE_UNMAPPED = "execute_unmapped"
    EXECUTE_DATA = "execute_data"
    STACK_OVERFLOW = "stack_overflow"
    STACK_POINTER = "stack_pointer"
    GENERAL_PROTECTION = "general_protection"
    NO_ADDRESS = "no_address"
    PROTECTION_KEY = "protection_key"
    SHADOW_STACK = "shadow_stack"
    MEMORY_TAG = "memory_tag"
    PAST_END_OF_FILE = "past_end_of_file"
    TMPFS_FULL = "tmpfs_full"
    FILE_SYSTEM_FULL = "file_system_full"
    HUGE_PAGES = "huge_pages"
    FILE_PAGE = "file_page"
    HARDWARE_MEMORY = "hardware_memory"
    MISALIGNED = "misaligned"
    DIVIDE = "divide"
    FLOATING_POINT = "floating_point"
    ILLEGAL_INSTRUCTION = "illegal_instruction"
    BREAKPOINT = "breakpoint"
    SYSTEM_CALL = "system_call"
    CPU_LIMIT = "cpu_limit"
    FILE_SIZE_LIMIT = "file_size_limit"
    TERMINAL = "terminal"
    ABORT = "abort"
    SENT = "sent"
    OUT_OF_MEMORY = "out_of_memory"


class Diagnosis(NamedTuple):
    """One sentence, without a full stop, and its kind; hostile text in it is escaped."""

    kind: DiagnosisKind
    text: str
