"""The forms of words, and finding them in texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kw.text.inflection import (
    find_keyword,
    inflections,
    keyword_forms,
    keyword_pattern,
)
from gpt2kw.text.keywords import clean_keyword


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("cat", "cats"),
        ("cats", "cat"),
        ("box", "boxes"),
        ("city", "cities"),
        ("day", "days"),
        ("knife", "knives"),
        ("mice", "mouse"),
        ("child", "children"),
        ("run", "ran running runs"),
        ("stop", "stopped stopping"),
        ("visit", "visited visiting"),
        ("dance", "danced dancing dances"),
        ("agree", "agreed agreeing"),
        ("lie", "lying lay lain lies"),
        ("dry", "dried drying dries drier"),
        ("see", "saw seen seeing sees"),
        ("big", "bigger biggest"),
        ("happy", "happier happiest"),
    ],
)
def test_a_word_has_its_forms(word, forms):
    assert inflections(word)[0] == word
    assert set(forms.split()) <= set(inflections(word))


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("saw", "see"),
        ("news", "new"),
        ("see", "seed"),
        ("man", "manner"),
        ("cat", "cater"),
        ("glass", "glas"),
        ("bus", "bu"),
        ("found", "find"),
        ("visit", "visitted"),
    ],
)
def test_a_word_has_no_forms_of_another(word, other):
    assert other not in inflections(word)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("cat", "Cats!"),
        ("CAT", "my cat's toy"),
        ("new-york", "in New York."),
        ("new-york", "a New-York minute"),
        ("school-project", "two school projects"),
        ("rock-n-roll", "Rock 'n' roll"),
        ("c++", "C++ is old"),
        ("$20", "for $20 only"),
        ("🐈", "a🐈b"),
        ("猫", "黒猫が好き"),
        ("café", "the CAFÉ"),
        ("قطة", "هذه قطة"),
    ],
)
def test_a_keyword_is_found_in_any_case_and_form(keyword, text):
    assert find_keyword(keyword, text) == keyword_pattern(keyword).search(text).span()


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("cat", "catalog"),
        ("cat", "bobcat"),
        ("cat", "cat_food"),
        ("new-york", "new in york"),
        ("school-project", "schools project"),
        ("café", "cafés2"),
        # As the encoder has it, these are other words.
        ("2003", "for $2003"),
        ("2003", "2003+"),
        ("C", "C++ is old"),
    ],
)
def test_a_keyword_is_not_found_inside_other_words(keyword, text):
    assert not keyword_pattern(keyword).search(text)
    assert find_keyword(keyword, text) is None


@settings(deadline=None)
@given(st.text(max_size=30).map(clean_keyword).filter(bool))
def test_any_keyword_is_found_where_it_stands_alone(keyword):
    assert keyword_pattern(keyword).search(f"x {keyword.replace('-', ' ')} y")
    assert keyword_forms(keyword)[0] == tuple(keyword.split("-"))
