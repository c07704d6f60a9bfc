"""Keyword rules, on hand-made documents so that no model's opinion is tested."""

import random

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc

from gpt2kw.errors import UserError
from gpt2kw.text.keywords import (
    choose_keywords,
    clean_keyword,
    distinct_keywords,
    extract_keywords,
    find_spacy_model,
    load_spacy,
    split_keywords,
    straighten_quotes,
)

VOCAB = spacy.blank("en").vocab


def doc(tagged: str, entities: tuple[str, ...] = ()) -> Doc:
    """Make a document from `word/POS/lemma/dep` parts; lemma and dep may be left out."""
    parts = [[*token.split("/"), "", ""][:4] for token in tagged.split()]
    words, tags, lemmas, deps = zip(*parts, strict=True)
    return Doc(
        VOCAB,
        words=words,
        pos=tags,
        lemmas=[lemma or word for word, lemma in zip(words, lemmas, strict=True)],
        deps=[dep or "dep" for dep in deps],
        heads=[min(i + 1, len(words) - 1) for i in range(len(words))],
        ents=list(entities) or None,
    )


def test_nouns_stay_as_written_and_other_words_become_lemmas():
    words = "Shaders/NOUN/shader were/AUX/be rendered/VERB/render beautifully/ADV bigger/ADJ/big"
    assert extract_keywords(doc(words), 20) == ["Shaders", "render", "beautifully", "big"]


def test_pronouns_stop_words_and_punctuation_are_no_keywords():
    assert extract_keywords(doc("I/PRON am/AUX very/ADV !/PUNCT --/PUNCT not/PART"), 20) == []


def test_noun_compounds_are_one_keyword_beside_their_nouns():
    words = "the/DET school/NOUN//compound project/NOUN"
    assert extract_keywords(doc(words), 20) == ["school-project", "school", "project"]


def test_proper_nouns_in_a_row_are_one_keyword_only():
    words = "Elon/PROPN//compound Musk/PROPN//poss 's/PART cats/NOUN"
    assert extract_keywords(doc(words), 20) == ["Elon-Musk", "cats"]


def test_entities_lose_leading_determiners_and_closing_possessives():
    words = "the/DET New/ADJ/New York/NOUN Times/NOUN 's/PART crossword/NOUN"
    entities = ("B-ORG", "I-ORG", "I-ORG", "I-ORG", "I-ORG", "O")
    assert extract_keywords(doc(words, entities), 20)[0] == "New-York-Times"


def test_compounds_longer_than_the_limit_are_left_out_and_their_nouns_stay():
    words = "neighbourhood/NOUN//compound association/NOUN"
    assert extract_keywords(doc(words), 20) == ["neighbourhood", "association"]
    assert "neighbourhood-association" in extract_keywords(doc(words), 40)


def test_case_is_kept_and_repeats_go():
    assert extract_keywords(doc("Cats/NOUN like/VERB cats/NOUN"), 20) == ["Cats", "like"]


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("New York", "New-York"),
        ("--a, b--", "a-b"),
        ("rock'n'roll", "rock-n-roll"),
        ("C++", "C++"),
        ("\u00e9t\u00e9", "\u00e9t\u00e9"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("~@x<|y", "x-y"),
        ("...", ""),
    ],
)
def test_cleaning_a_keyword(text, keyword):
    assert clean_keyword(text) == keyword


@given(st.text())
def test_a_clean_keyword_has_no_space_and_stays_clean(text):
    keyword = clean_keyword(text)
    assert not any(character.isspace() for character in keyword)
    assert not keyword.startswith("-")
    assert not keyword.endswith("-")
    assert "--" not in keyword
    assert clean_keyword(keyword) == keyword


def test_a_keywords_field_is_split_cleaned_and_freed_of_repeats():
    assert split_keywords("New York, cats ,,CATS, ...", ",") == ["New-York", "cats"]
    assert distinct_keywords(["a b", "A-B"]) == ["a-b"]


def test_smart_quotes_are_straightened_without_a_change_of_length():
    assert straighten_quotes("\u201cit\u2019s\u201d") == '"it\'s"'


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=2), unique=True, max_size=6),
    st.integers(1, 8),
    st.integers(0, 4),
    st.integers(),
)
def test_choices_differ_and_hold_at_most_the_wanted_number(keywords, repeat, most, seed):
    choices = choose_keywords(keywords, repeat, most, random.Random(seed))
    assert 1 <= len(choices) <= repeat
    assert len({tuple(choice) for choice in choices}) == len(choices)
    for choice in choices:
        assert len(choice) <= most
        assert len(set(choice)) == len(choice)
        assert set(choice) <= set(keywords)


def test_fewer_choices_come_only_when_no_more_exist():
    assert choose_keywords([], 3, 3, random.Random(0)) == [[]]
    assert sorted(choose_keywords(["a"], 3, 3, random.Random(0))) == [[], ["a"]]
    assert len(choose_keywords(["a", "b", "c"], 16, 3, random.Random(0))) == 16


def test_all_sizes_and_orders_are_chosen():
    seen = {tuple(choose_keywords(["a", "b"], 1, 2, random.Random(n))[0]) for n in range(200)}
    assert seen == {(), ("a",), ("b",), ("a", "b"), ("b", "a")}


def test_a_missing_spacy_model_is_an_error_with_both_install_commands():
    with pytest.raises(UserError, match=r"spacy download xx_none.*pip install"):
        find_spacy_model("xx_none")


def test_the_small_english_model_loads_by_its_usual_name():
    nlp = load_spacy("en_core_web_sm")
    keywords = extract_keywords(nlp("The shaders of my school project in New York"), 20)
    assert "New-York" in keywords
    assert "shaders" in keywords
