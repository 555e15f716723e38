"""The one D-Bus call by which systemd is asked whether the machine goes down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.host.system_state import ANSWER_LIMIT, answered

# What systemd 252 answered, in a namespace.
ANSWER = (
    b"OK 66563596dda04c38a59066fc942b3ed6\r\nl\x02\x01\x01\x11\0\0\0\x01\0\0\x007\0\0\0\x05\x01u\0\x01\0\0\0\x07\x01s\0"
    b"\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0\x08\x01g\0\x01v\0\0\x01s\0\0\x08\0\0\0stopping\0"
)


def test_state_is_read_from_the_answer() -> None:
    assert answered(ANSWER) == "stopping"


@pytest.mark.parametrize("length", range(len(ANSWER)))
def test_state_waits_for_the_rest_of_an_answer(length: int) -> None:
    assert answered(ANSWER[:length]) is None


def test_state_is_read_after_a_signal_that_comes_first() -> None:
    line, _, message = ANSWER.partition(b"\r\n")
    signal = message[:1] + b"\x04" + message[2:]
    assert answered(line + b"\r\n" + signal + message) == "stopping"


@pytest.mark.parametrize(
    "received", [b"REJECTED EXTERNAL\r\n", b"x" * ANSWER_LIMIT, ANSWER.replace(b"l\x02", b"l\x03")]
)
def test_state_is_unknown_when_systemd_refuses(received: bytes) -> None:
    assert answered(received) == ""


@given(st.binary(max_size=200))
def test_state_is_never_waited_for_without_end(noise: bytes) -> None:
    """Whatever comes, it is an answer, or none, or the rest is at most `ANSWER_LIMIT` away."""
    known = answered(b"OK 1\r\n" + noise)
    assert known is None or isinstance(known, str)
