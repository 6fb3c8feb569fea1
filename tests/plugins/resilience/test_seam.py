"""Where an answer goes on: what is repeated is dropped, and nothing else."""

from __future__ import annotations

import random

import pytest
from kaizen_resilience._seam import rest_after

SENTENCE = "The quick brown fox jumps over the lazy dog; then it sleeps until noon. "
LINE = "| a rather long row of a table | with two cells that say little | so it goes |\n"


@pytest.mark.parametrize(
    ("prefix", "text", "rest"),
    [
        ("Hello ", "world", "world"),
        ("Hello", " world", " world"),
        ("Hello", "", ""),
        ("日本", "語", "語"),
        ("🇯", "🇵", "🇵"),
        ("a\n", "\n  b", "\n  b"),
        (SENTENCE, SENTENCE + "Then", "Then"),
        (SENTENCE, SENTENCE, ""),
        ("Once. " + SENTENCE, SENTENCE + "Then", "Then"),
        ("x" + SENTENCE, SENTENCE[:-1] + "Then", SENTENCE[:-1] + "Then"),
        (SENTENCE, "the lazy dog", "the lazy dog"),
        ("so it said the ", "the end", "the end"),
    ],
)
def test_what_follows_a_prefix(prefix: str, text: str, rest: str) -> None:
    assert rest_after(prefix, text) == rest


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("ha ", "ha ha!"),
        ("1", "1 apples"),
        ("-" * 40, "-" * 40 + "\n"),
        (LINE * 3, LINE * 4),
    ],
)
def test_a_repetition_that_may_be_meant_is_left_undecided(prefix: str, text: str) -> None:
    assert rest_after(prefix, text) is None


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_line_that_comes_again_and_again_loses_none_of_them(times: int) -> None:
    prefix = "Rows:\n" + LINE * 4

    assert rest_after(prefix, LINE * (times + 1)) == LINE * (times + 1)


def test_every_cut_of_a_text_joins_to_the_text_whether_the_prefix_is_repeated_or_not() -> (
    None
):
    chance = random.Random(3)
    words = [f"{chance.randrange(10_000)}{chance.choice('é日 -')}" for _ in range(80)]
    text = "".join(words)

    for cut in range(1, len(text)):
        prefix, rest = text[:cut], text[cut:]
        assert rest_after(prefix, rest) == rest
        assert rest_after(prefix, text) == (rest if cut >= 16 else None)


def test_a_megabyte_is_joined_in_no_time() -> None:
    prefix = "a" * 500_000 + "b"

    assert rest_after(prefix, prefix + "c") == "c" or rest_after(prefix, prefix) is None
    assert rest_after(prefix, "a" * 500_000) == "a" * 500_000
