"""Every parser of what others have written: any bytes are parsed or refused. `make fuzz` looks further."""

from __future__ import annotations

import random

import pytest
from fuzz.damage import damaged
from fuzz.parsers import PARSERS
from fuzz.seeds import CORPUS, MAKERS, seeds
from hypothesis import given, settings
from hypothesis import strategies as st


def test_parsers_have_seeds_and_a_corpus_of_their_own() -> None:
    """A file in the corpus under a name that nobody reads would protect nothing."""
    assert PARSERS.keys() == MAKERS.keys() >= {path.name for path in CORPUS.iterdir()}


@pytest.mark.parametrize("name", PARSERS)
def test_parser_survives_what_broke_it_once(name: str) -> None:
    """What fuzzing found, and the well-formed inputs that it begins with."""
    for data in seeds(name):
        PARSERS[name](data)


@pytest.mark.parametrize("name", PARSERS)
@given(seed=st.integers(), edits=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_parser_reads_or_refuses_damaged_input(name: str, seed: int, edits: int) -> None:
    """Pieces of it overwritten, repeated, left out or from elsewhere."""
    PARSERS[name](damaged(seeds(name), random.Random(seed), edits))
