from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.redaction import MASK, MAX_ENTRY_BYTES, Redaction


def environ(data: bytes, size: int = 7, redaction: Redaction | None = None) -> bytes:
    """Redact *data* as it comes in pieces of *size* bytes."""
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join((redaction or Redaction()).environ(pieces))


@pytest.mark.parametrize(
    "name",
    ["PASSWORD", "DB_PASS", "db_password", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "API_KEY", "HTTP_AUTHORIZATION",
     "SESSION_COOKIE", "SENTRY_DSN", "MY_CREDENTIALS", "ConnectionStrings__main", "SSH_PRIVATE"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_environ_hides_the_values_of_secret_names(name: str, size: int) -> None:
    """By name, ignoring case, wherever a piece ends."""
    raw = f"HOME=/root\0{name}=hunter2\0LANG=C\0".encode()
    assert environ(raw, size) == raw.replace(b"hunter2", MASK)


def test_environ_keeps_what_is_not_secret() -> None:
    """An engineer needs the rest; an empty value hides nothing."""
    raw = b"PATH=/bin\0TERM=xterm\0TOKEN=\0no equals sign\0\0"
    assert environ(raw) == raw


def test_environ_hides_values_that_hold_an_equals_sign() -> None:
    """Only the first one ends the name."""
    assert environ(b"TOKEN=a=b=c\0") == b"TOKEN=" + MASK + b"\0"


def test_environ_hides_passwords_in_urls_whatever_the_name() -> None:
    """DATABASE_URL looks harmless."""
    assert environ(b"DATABASE_URL=postgres://app:hunter2@db/main?x=1\0") == (
        b"DATABASE_URL=postgres://app:" + MASK + b"@db/main?x=1\0"
    )
    assert environ(b"URL=redis://:hunter2@cache\0") == b"URL=redis://:" + MASK + b"@cache\0"


def test_environ_hides_a_string_longer_than_execve_takes() -> None:
    """A process can write anything there; what is too long to be checked is hidden, and takes no memory."""
    raw = b"A=1\0" + b"x" * (3 * MAX_ENTRY_BYTES) + b"TOKEN=hunter2\0B=2\0"
    assert environ(raw, 65_536) == b"A=1\0" + MASK + b"\0B=2\0"


def test_environ_that_was_cut_off_shows_no_secret() -> None:
    """The last entry has no end."""
    assert environ(b"A=1\0TOKEN=hunt") == b"A=1\0TOKEN=" + MASK + b"\0"


@given(st.binary(max_size=300), st.integers(1, 50))
def test_environ_does_not_depend_on_the_pieces(data: bytes, size: int) -> None:
    """The result is the same wherever the reads end."""
    assert environ(data, size) == environ(data, 1000)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("app --password=hunter2 -v", "app --password=@ -v"),
        ("app --password hunter2 -v", "app --password @ -v"),
        ("app -Ddb.password=hunter2", "app -Ddb.password=@"),
        ("env API_KEY=hunter2 app", "env API_KEY=@ app"),
        ("app --no-auth --verbose", "app --no-auth --verbose"),
        ("app --token -secretive", "app --token @"),
        ("app --password --password=hunter2", "app --password --password=@"),
        ("app postgres://a:hunter2@h/db", "app postgres://a:@@h/db"),
        ("app password", "app password"),
        ("tar -czf key.tar passwords/", "tar -czf key.tar passwords/"),
    ],
)
def test_arguments_hide_secret_options(arguments: str, shown: str) -> None:
    """Both ways to pass a value to an option; plain words are kept."""
    words = arguments.encode().split(b" ")
    assert b" ".join(Redaction().arguments(words)).replace(MASK, b"@") == shown.encode()


def test_arguments_hide_a_header() -> None:
    """curl takes secrets as headers."""
    words = [b"curl", b"-H", b"Authorization: Bearer hunter2", b"https://host"]
    assert list(Redaction().arguments(words)) == [b"curl", b"-H", b"Authorization:" + MASK, b"https://host"]


@pytest.mark.parametrize(
    "line",
    [
        b"app: worker --password=hunter2 db",  # setproctitle joins everything with blanks
        b"sh -c\0TOKEN=hunter2 app --verbose",
        b"sh\0-c\0curl -H 'Authorization: Bearer hunter2' https://host",
        b"sh\0-c\0app --password hunter2; true",
        b"psql\0host=db password=hunter2",
    ],
)
def test_command_line_hides_secrets_within_one_argument(line: bytes) -> None:
    """A shell's script and a rewritten title are one argument of many words."""
    assert b"hunter2" not in b"".join(Redaction().command_line([line + b"\0"]))


def test_command_line_keeps_words_around_a_secret() -> None:
    """Only the value is hidden."""
    shown = b"".join(Redaction().command_line([b"sh\0-c\0cat keys.txt; TOKEN=hunter2 app -v\0"]))
    assert shown == b"sh\0-c\0cat keys.txt; TOKEN=" + MASK + b" app -v\0"


def test_redaction_that_is_off_changes_nothing() -> None:
    """The operator decides."""
    off = Redaction(enabled=False)
    assert environ(b"TOKEN=hunter2\0", 5, off) == b"TOKEN=hunter2\0"
    assert list(off.arguments([b"--token", b"x"])) == [b"--token", b"x"]
    assert list(off.command_line([b"--token\0x\0"])) == [b"--token\0x\0"]


def test_redaction_takes_other_keys() -> None:
    """The list is the operator's."""
    own = Redaction(keys=("licen?e",))
    assert environ(b"LICENSE=1\0TOKEN=2\0", 5, own) == b"LICENSE=" + MASK + b"\0TOKEN=2\0"
    assert environ(b"TOKEN=2\0", 5, Redaction(keys=())) == b"TOKEN=2\0"
