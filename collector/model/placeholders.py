"""
Placeholders in the arguments of a command: ``{pid}``. Pure.

What stands in braces otherwise is passed as it is: only lowercase words are placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

_WHOLE = re.compile(r"\{([a-z_]+)\}")
_ANYWHERE = re.compile(r"(?<![%$])\{([a-z_]+)\}")
"""Not ``${name}`` of a shell, nor ``%{name}`` of curl and others."""


def whole_placeholders(argv: Sequence[str]) -> Iterator[str]:
    """Yield the placeholders that are arguments of their own."""
    return (found[1] for argument in argv if (found := _WHOLE.fullmatch(argument)))


def check_whole(argv: Sequence[str], known: Collection[str]) -> None:
    """
    Check placeholders that have to be arguments of their own.

    Raises:
        ValueError: If an argument is one that is not *known*, or has one within; the message quotes the argument.
    """
    for argument in argv:
        found = _WHOLE.fullmatch(argument)
        if found and found[1] not in known:
            spaced = f"'{{ {found[1]} }}'"
            raise ValueError(f"{argument!r} is not a placeholder: there are {_shown(known)}; other text needs {spaced}")
        if not found and (within := [word for word in _ANYWHERE.findall(argument) if word in known]):
            raise ValueError(f"{argument!r}: {{{within[0]}}} has to be an argument of its own")


def check_anywhere(argv: Sequence[str], known: Collection[str]) -> None:
    """Check placeholders that may be part of an argument; raise `ValueError` if one is not *known*."""
    for argument in argv:
        if unknown := [word for word in _ANYWHERE.findall(argument) if word not in known]:
            raise ValueError(f"{argument!r}: there is no placeholder {{{unknown[0]}}}, only {_shown(known)}")


def filled_whole(argv: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return *argv* with the arguments that are placeholders replaced."""
    return tuple(values[found[1]] if (found := _WHOLE.fullmatch(argument)) else argument for argument in argv)


def filled_anywhere(argv: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return *argv* with all placeholders replaced; what is put in is not searched again."""
    return tuple(_ANYWHERE.sub(lambda found: values[found[1]], argument) for argument in argv)


def _shown(known: Collection[str]) -> str:
    return ", ".join(f"{{{word}}}" for word in known)
