"""Which of several texts is the best."""

from dataclasses import replace

import pytest

from gpt2kw.generation.ranking import Text, cut, keywords_side_by_side, repeated_words
from gpt2kw.text.format import Document, Record


def text(title, finished=True, keywords=("cat", "piano"), nats=2.0, forced=0, body=None):
    document = Document(Record(title=title, body=body), finished)
    return Text(document, keywords=keywords, nats=nats, forced=forced)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (text("A cat at the piano", finished=False, nats=9.0), text("A cat", nats=1.0)),
        (text("A cat at the piano", nats=9.0), text("A cat and a piano", finished=False)),
        (text("A cat at the piano", nats=9.0), text("A cat at the piano", forced=1)),
        (text("A cat at the piano", nats=1.9), text("A cat on the piano", nats=2.0)),
        (text("A cat at the piano", nats=2.4), text("At the cat piano", nats=2.0)),
        (text("A cat at the piano", nats=2.2), text("A cat, a cat, a piano", nats=2.0)),
        (text("A cat likes the piano", nats=2.2), text("A piano cat likes likes", nats=2.0)),
        (text("A cat plays the old piano", nats=2.2), text("Cat, piano", nats=2.0)),
        (text("A cat " + "so " * 10, nats=2.0), text("A cat " + "so " * 30, nats=2.1)),
    ],
)
def test_texts_are_ranked_by_keywords_then_form_then_how_natural_they_are(better, worse):
    assert better.rank() < worse.rank()


def test_side_by_side_means_nothing_but_a_space_between():
    assert keywords_side_by_side("The cat piano", ["cat", "piano"]) == 1
    assert keywords_side_by_side("cats piano cat", ["cat", "piano"]) == 2
    assert keywords_side_by_side("A cat, piano and all", ["cat", "piano"]) == 0
    assert keywords_side_by_side("A piano", ["cat", "piano"]) == 0


def test_repetitions_are_counted_for_longer_words_and_all_forms_of_keywords():
    assert repeated_words("The dog and the dog", []) == 0
    assert repeated_words("The dog and two dogs", ["dog"]) == 1
    assert repeated_words("Green is green is GREEN", []) == 2


def test_what_is_missing_is_read_off_the_title():
    assert text("My cats").missing == ["piano"]
    assert text("A category", keywords=("cat",)).missing == ["cat"]
    assert text("A dog", keywords=("cat",), body="a cat").missing == ["cat"]


def test_cutting_begins_behind_the_prefix_and_makes_a_text_whole():
    long = text("My cat. A piano. More", finished=False, body="b")
    done = cut(long, "My cat.", ".", include_prefix=True)
    assert done.document == Document(Record(title="My cat. A piano"), True)
    bare = cut(long, "My cat.", None, include_prefix=False)
    assert bare.document.record == Record(title=" A piano. More", body="b")
    assert not bare.document.finished


def test_cutting_reaches_into_the_body_if_the_title_is_whole():
    whole = text("My cat sat", finished=False, body="It slept. The end. More")
    done = cut(whole, "My", ".", include_prefix=True)
    assert done.document == Document(Record(title="My cat sat", body="It slept"), True)
    # Of a prompt that has a title and the beginning of a body.
    behind = cut(text("Mr. Cat", body="Once. So. On"), "Once.", ".", include_prefix=True)
    assert behind.document.record == Record(title="Mr. Cat", body="Once. So")


def test_plain_texts_say_what_is_missing_and_are_not_ranked_by_it():
    with_none, with_all = text("A dog slept", nats=1.0), text("A cat at a piano", nats=9.0)
    plain = [replace(one, guided=False) for one in (with_none, with_all)]
    assert plain[0].missing == ["cat", "piano"]
    assert plain[0].rank() < plain[1].rank()
