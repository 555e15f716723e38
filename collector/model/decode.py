"""The one decoder of what others have written: manifests, journals, messages, remembered texts."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

from collector.model.errors import CollectorError

T = TypeVar("T")


class MalformedError(CollectorError):
    """Something that was read is not what it should be; what it is about is lost, nothing else."""


@overload
def decode(data: bytes | memoryview | str, kind: type[T]) -> T: ...
@overload
def decode(data: bytes | memoryview | str, kind: Any) -> Any: ...
def decode(data: bytes | memoryview | str, kind: Any) -> Any:
    """
    Return the *kind*, a type or a union of types, that the JSON text *data* holds.

    Raises:
        MalformedError: If it is not JSON, not UTF-8, nested too deeply, or something else than *kind*.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    # msgspec checks UTF-8 only where it makes a str, and passes on what Python raises there.
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise MalformedError(str(exc)) from exc
