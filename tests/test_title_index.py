"""Copies of training titles: what is one, and an index that finds each."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kw.errors import UserError
from gpt2kw.text import title_index
from gpt2kw.text.normalise import normal_form, normal_words
from gpt2kw.text.suffixes import sorted_suffixes
from gpt2kw.text.title_index import Copy, TitleIndex

TITLES = [
    "My cat sleeps on the warm keyboard again",
    "Why does nobody talk about the old library in our town?",
    "Don\u2019t feed the ducks",
    "My cat",
    "新しい猫がキーボードの上で寝ている",
    "???",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "titles"
    TitleIndex.build(TITLES, folder)
    return TitleIndex.open(folder)


@pytest.mark.parametrize(
    "text",
    [
        "My cat sleeps on the warm keyboard again",
        "  my CAT -- sleeps on the “warm” keyboard, again!\n",
        "DONT feed the ducks",
        "my cat.",
        "\uff2d\uff39 cat",
        "???",
    ],
)
def test_case_punctuation_white_space_and_unicode_forms_make_nothing_new(index, text):
    assert index.find_copy(text).rule == "same"


def test_a_span_of_four_fifths_of_the_words_is_a_copy(index):
    title = "my cat sleeps on the warm keyboard again"
    assert index.find_copy("Look, my cat sleeps on") == Copy(title, "span")
    assert index.find_copy("On the warm keyboard again, mother") == Copy(title, "span")
    assert index.find_copy("Look how my cat sleeps on") is None
    assert index.find_copy("my cat sleeps near the warm red keyboard today") is None


def test_a_span_may_not_run_from_one_title_into_the_next(index):
    assert index.find_copy("warm keyboard again why does nobody") is None


def test_a_text_that_differs_in_letters_is_a_copy(index):
    assert index.find_copy("My cats sleep on the warm keyboard again") is None
    copy = index.find_copy("My cat sleep on the warm keyboard again")
    assert copy == Copy("my cat sleeps on the warm keyboard again", "similar")
    assert index.find_copy("新しい犬がキーボードの上で寝ている") is None
    assert index.find_copy("新しい猫がキーボードの上で寝ていた").rule == "similar"


@pytest.mark.parametrize(
    "text", ["the old library", "our town", "feed ducks", "cat", "", " \t", "!"]
)
def test_a_short_text_may_stand_inside_a_title_and_be_new(index, text):
    assert index.find_copy(text) is None


def test_all_titles_come_back_once(index, tmp_path):
    assert len(index) == len(TITLES)
    assert sorted(index) == sorted(map(normal_form, TITLES))
    TitleIndex.build([*index, *TITLES, "", "One more"], tmp_path / "more")
    assert sorted(TitleIndex.open(tmp_path / "more")) == sorted([*index, "one more"])


WORDS = st.sampled_from(
    ["a", "b", "cat", "cats", "naïve", "o'clock", "\U0001d4b3", "x9", "猫", "re-do", "🐈"]
)
TEXTS = st.one_of(
    st.lists(WORDS, max_size=12).map(" ".join),
    st.text("aab ,é", max_size=200),
    st.text(max_size=12),
)


def brute_force(text, titles):
    """The three rules, as they are said."""
    words = normal_words(text)
    found = set()
    for title in map(normal_words, titles):
        if not words or not title:
            continue
        if words == title:
            found.add((" ".join(title), "same"))
        run = next(n for n in range(100) if 10 * n >= 8 * len(words))
        spans = {tuple(words[i : i + run]) for i in range(len(words) - run + 1)}
        there = {tuple(title[i : i + run]) for i in range(len(title) - run + 1)}
        if len(words) >= 4 and spans & there:
            found.add((" ".join(title), "span"))
        a, b = (
            {t[i : i + 3] for i in range(len(t) - 2)} for t in (" ".join(words), " ".join(title))
        )
        if a and Fraction(len(a & b), len(a | b)) >= Fraction(8, 10):
            found.add((" ".join(title), "similar"))
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, max_size=12), st.lists(TEXTS, max_size=6), st.data())
def test_an_index_agrees_with_brute_force(tmp_path_factory, titles, texts, data):
    folder = tmp_path_factory.mktemp("index") / "titles"
    TitleIndex.build(titles, folder)
    index = TitleIndex.open(folder)
    assert sorted(index) == sorted({normal_form(title) for title in titles} - {""})
    near = [_changed(title, data) for title in titles]
    for text in [*texts, *near]:
        expected = brute_force(text, titles)
        copy = index.find_copy(text)
        if copy is None:
            assert expected == set()
        else:
            rules = {rule for _, rule in expected}
            assert (copy.title, copy.rule) in expected
            assert copy.rule == next(r for r in ("same", "span", "similar") if r in rules)


def _changed(title, data):
    """A text near a title: with one word more, another, or a letter less."""
    words = title.split(" ")
    place = data.draw(st.integers(0, len(words)))
    change = data.draw(st.sampled_from(["more", "other", "letter"]))
    if change == "letter":
        return title[:place] + title[place + 1 :]
    return " ".join([*words[:place], data.draw(WORDS), *words[place + (change == "other") :]])


@settings(deadline=None)
@given(st.text())
def test_a_normal_form_is_its_own(text):
    words = normal_words(text)
    assert normal_words(" ".join(words)) == words
    assert all(words)
    assert not set("".join(words)) & set("\0\1\2 ")


@settings(deadline=None)
@given(st.lists(st.integers(0, 4)), st.integers(1, 9))
def test_suffixes_are_sorted_as_far_as_asked(elements, depth):
    order = sorted_suffixes(np.array(elements, np.uint32), depth)
    assert sorted(order) == list(range(len(elements)))
    begun = [elements[place : place + depth] for place in order]
    assert begun == sorted(begun)


@pytest.mark.parametrize("grams", [4, 8, 9, 40, 64, 100, 300])
def test_titles_are_similar_up_to_the_very_limit(tmp_path, grams):
    # One word of letters that are all different: only the third rule applies.
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    TitleIndex.build([letters[: grams + 2]], tmp_path / "titles")
    index = TitleIndex.open(tmp_path / "titles")
    for others in range(1, 390):
        share = Fraction(min(grams, others), max(grams, others))
        copy = index.find_copy(letters[: others + 2])
        assert (copy is not None) == (share >= Fraction(8, 10)), others


def test_words_beyond_the_codes_are_spelled(tmp_path, monkeypatch):
    monkeypatch.setattr(title_index, "_CODES", 3)
    titles = [f"{word} cats see {word} dogs under {n}" for n in range(9) for word in "ABCD"]
    TitleIndex.build(titles, tmp_path / "titles")
    index = TitleIndex.open(tmp_path / "titles")
    assert sorted(index) == sorted(map(normal_form, titles))
    assert {index.find_copy(title).rule for title in titles} == {"same"}
    assert index.find_copy("d cats see d dogs").rule == "span"


def test_an_index_has_a_key_and_is_known_by_it(tmp_path):
    folder = tmp_path / "titles"
    assert not TitleIndex.exists(folder, "these")
    TitleIndex.build(TITLES, folder, key="these")
    assert TitleIndex.exists(folder, "these")
    assert not TitleIndex.exists(folder, "others")
    assert TitleIndex.open(folder).key == "these"


def test_a_build_that_fails_leaves_what_was_there(tmp_path):
    def torn():
        yield "One title"
        raise RuntimeError

    TitleIndex.build(TITLES, tmp_path / "titles", key="whole")
    with pytest.raises(RuntimeError):
        TitleIndex.build(torn(), tmp_path / "titles", key="torn")
    assert TitleIndex.exists(tmp_path / "titles", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["titles"]


def test_a_missing_a_torn_and_another_versions_index_are_said(tmp_path):
    folder = tmp_path / "titles"
    with pytest.raises(UserError, match="has no index of training titles; .*finetune"):
        TitleIndex.open(folder)
    TitleIndex.build(TITLES, folder)
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"layout": 0}))
    with pytest.raises(UserError, match="can't be read; remove it"):
        TitleIndex.open(folder)
    (folder / "about.json").write_text(json.dumps(about))
    suffixes = folder / "suffixes.npy"
    suffixes.write_bytes(suffixes.read_bytes()[:-40])
    with pytest.raises(UserError, match="can't be read; remove it"):
        TitleIndex.open(folder)
