"""Words that a text must not have."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2kw.errors import UserError
from gpt2kw.generation.word_filter import WordFilter

WORDS = WordFilter(["damn", "Cat", "son of a gun", "a-b"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Damn, that was close", "damn"),
        ("my CAT's-eye, my cat.", "Cat"),
        ("That son-of-a-gun stole it", "son of a gun"),
        ("read it from A to B: a b", "a-b"),
        ("D4MN it, the c@t", "damn"),
        ("\uff44\uff41\uff4d\uff4e it", "damn"),
        ("damned cats concatenate", None),
        ("son of a gunner", None),
        ("", None),
        ("!!! 4 @ 1", None),
    ],
)
def test_whole_words_are_found_in_any_case(text, found):
    assert WORDS.find(text) == found


def test_the_built_in_list_has_swear_words():
    words = WordFilter.load()
    assert len(words.words) > 500
    assert words.find("What the FUCK is that").lower() == "fuck"
    assert words.find("5h1t happens") is not None
    assert words.find("Three peaks, two sandwiches, one argument") is None


def test_every_word_of_the_built_in_list_is_found():
    words = WordFilter.load()
    assert [word for word in words.words if not words.find(f"so {word} it is")] == []


def test_a_word_that_can_not_be_seen_is_in_no_text():
    assert WordFilter(["\u200b"]).find("A plain text") is None


def test_a_file_has_a_word_or_phrase_a_line_and_comments(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("\ufeff# no pets\ncat\n\n  hot dog   # nor food\ncat\nc#\n", "utf-8")
    words = WordFilter.load(file)
    assert words.words == ("cat", "hot dog", "c#")
    assert words.find("one Hot-Dog please") == "hot dog"
    assert words.find("damn") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't read .*words.txt: No such file"),
        (b"\xff\xfe\xfd", "words.txt is not UTF-8"),
        (b"# nothing\n\n", "words.txt has no words; write one a line"),
    ],
)
def test_a_file_that_is_no_list_is_said(tmp_path, content, message):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        WordFilter.load(file)


@given(st.lists(st.text("abc", min_size=1), max_size=5), st.lists(st.text("abc ", min_size=1)))
def test_what_is_found_stands_there_as_whole_words(listed, parts):
    text = "".join(parts)
    expected = [word for word in listed if re.search(rf"\b{word}\b", text)]
    found = WordFilter(listed).find(text)
    assert found in expected if expected else found is None
