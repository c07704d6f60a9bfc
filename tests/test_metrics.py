"""Metrics on hand-made cases whose figures are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from gpt2kw.evaluation.bootstrap import Measurement, difference, estimate
from gpt2kw.evaluation.coverage import (
    Coverage,
    are_side_by_side,
    as_written,
    coverage,
    covered_by_all,
    matches,
    missing_keywords,
)
from gpt2kw.evaluation.diversity import distinct, self_bleu
from gpt2kw.evaluation.form import length_counts, length_distance
from gpt2kw.evaluation.novelty import copies, longest_span, nearest, shared_lengths, unseen
from gpt2kw.evaluation.quality import bleu, bleu_counts, cider, rouge_l
from gpt2kw.evaluation.words import ngrams, words
from gpt2kw.text.keywords import clean_keyword
from gpt2kw.text.lemmas import Lemmas


@pytest.fixture(scope="module")
def forms():
    return Lemmas("en_core_web_sm")


def split(*texts):
    return [tuple(text.split()) for text in texts]


# Words


def test_words_are_lower_case_without_punctuation():
    assert words("Kim's C++, “new” york-based: 20%!") == (
        "kim",
        "s",
        "c++",
        "new",
        "york",
        "based",
        "20",
    )
    assert words(" ...!? ") == ()
    assert ngrams(words("a b c"), 2) == [("a", "b"), ("b", "c")]
    assert ngrams(words("a b"), 3) == []


@given(st.text(), st.text(min_size=1), st.text())
def test_a_keyword_is_found_in_the_text_that_it_was_taken_from(before, taken, after):
    keyword = clean_keyword(taken)
    if keyword:
        assert matches(keyword, words(f"{before} {taken} {after}"), as_written)


# Coverage


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("cat", "Two Cats"),
        ("cats", "my cat"),
        ("run", "she ran"),
        ("running", "he runs"),
        ("run", "Running late"),
        ("leaf", "falling leaves"),
        ("leave", "she leaves"),
        ("good", "the best day"),
        ("new-york", "In New York, again"),
        ("school-project", "our school projects"),
        ("NASA", "nasa's rocket"),
    ],
)
def test_an_inflection_is_a_match(forms, keyword, text):
    assert matches(keyword, words(text), forms)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("cat", "category concatenate"),
        ("new-york", "york is new"),
        ("new-york", "new old york"),
        ("dog", "a cat"),
        ("dog", ""),
        ("university", "the universe"),
    ],
)
def test_other_words_are_none(forms, keyword, text):
    assert not matches(keyword, words(text), forms)


def test_only_texts_without_missing_keywords_are_compared_where_all_writers_have_one(forms):
    asked = [["cat"], ["dog", "sun"], ["tree"]]
    one = [["no", "cats sat"], ["dog", "sun"], ["tree"]]
    two = [["the cat", "cat"], ["the dog: sun"], ["no"]]
    texts = [[[words(text) for text in some] for some in own] for own in (one, two)]
    assert covered_by_all(asked, texts, forms) == [[1, None, None], [0, None, None]]
    assert covered_by_all(asked, texts[1:], forms) == [[0, 0, None]]


def test_coverage_counts_any_form_and_the_very_word(forms):
    text = words("The dogs ran to Kim")
    assert coverage(["dog", "run", "Kim", "piano"], text, forms) == Coverage(4, 3, 1)
    assert missing_keywords(["dog", "piano"], text, forms) == ["piano"]


def test_keywords_side_by_side(forms):
    keywords = ["dog", "piano", "new-york"]
    assert are_side_by_side(keywords, words("a piano dog"), forms)
    assert are_side_by_side(keywords, words("dogs, New York"), forms)
    assert are_side_by_side(keywords, words("a dog plays the piano"), forms) is False
    assert are_side_by_side(keywords, words("a dog and a dog"), forms) is None
    # The same words are not two keywords in a row.
    assert are_side_by_side(["school", "school-project"], words("a school project"), forms) is False


# Diversity


def test_distinct_counts_different_runs_of_words():
    texts = split("a b a b", "a b c")
    assert distinct(texts, 1) == (3, 7)
    assert distinct(texts, 2) == (3, 5)
    assert distinct(texts, 4) == (1, 1)
    assert distinct([], 1) == (0, 0)


def test_self_bleu_is_1_for_one_text_over_and_over():
    assert self_bleu(split("a b c d e", "a b c d e", "a b c d e")) == pytest.approx([1, 1, 1])
    assert self_bleu(split("a b c d")) == []


def test_self_bleu_by_hand():
    one, two, three = self_bleu(split("a b c d", "a b c e f", "x y"))
    # 3 of 4 words, 2 of 3 pairs, 1 of 2 triples; none of 1, which counts as 0.1. The nearest
    # other text in length has 5 words.
    assert one == pytest.approx(math.exp(1 - 5 / 4) * (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)
    assert two == pytest.approx((3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25)
    assert three == pytest.approx(math.exp(1 - 4 / 2) * (0.1 / 2 * 0.1 * 0.1 * 0.1) ** 0.25)


def test_self_bleu_clips_counts_to_the_best_other_text():
    (score, _, _) = self_bleu(split("a a a", "a a", "b a"))
    assert score == pytest.approx((2 / 3 * 1 / 2 * 0.1 * 0.1) ** 0.25)


# Novelty

TRAINING = split("the cat sat on the mat", "a dog", "the cat sat down")
small_texts = st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(tuple), max_size=5)


def test_copies_are_whole_texts():
    assert copies(split("a dog", "the cat", "A dog"), TRAINING) == [True, False, False]


def test_the_nearest_training_text_shares_most_runs_of_three_words():
    found = nearest(split("the cat sat on a mat", "a dog", "dog a", "the cat sat down"), TRAINING)
    # 2 of the 4 + 4 - 2 runs of either.
    assert (found[0].number, found[0].similarity) == (0, pytest.approx(2 / 6))
    assert (found[1].number, found[1].similarity) == (1, 1)
    assert found[2] is None
    assert (found[3].number, found[3].similarity) == (2, 1)


def test_shared_spans_by_hand():
    (lengths,) = shared_lengths(split("so the cat sat on it"), TRAINING)
    assert lengths.tolist() == [0, 4, 3, 2, 1, 0]
    assert longest_span(lengths) == 4
    assert unseen(lengths, 3) == (2, 4)
    assert unseen(lengths, 5) == (2, 2)
    assert unseen(lengths, 7) == (0, 0)


@settings(max_examples=50)
@given(small_texts, small_texts)
def test_shared_spans_are_those_that_a_search_finds(texts, training):
    haystacks = ["".join(text) for text in training]
    for text, lengths in zip(texts, shared_lengths(texts, training), strict=True):
        joined = "".join(text)
        assert lengths.tolist() == [
            max(
                size
                for size in range(len(joined) - start + 1)
                if not size or any(joined[start : start + size] in other for other in haystacks)
            )
            for start in range(len(joined))
        ]


# Quality


def corpus_bleu(texts, references):
    return bleu(np.sum([bleu_counts(t, r) for t, r in zip(texts, references, strict=True)], axis=0))


def test_bleu_is_that_of_sacrebleu_for_the_corpus():
    texts = ["The cat sat on a mat.", "A dog plays the piano in the dark"]
    references = [
        ["the cat sat on the mat", "A cat sat on a mat today."],
        ["a dog plays piano in the dark room", "the dog plays the piano in the street"],
    ]
    expected = BLEU(lowercase=True).corpus_score(texts, list(zip(*references, strict=True)))
    assert corpus_bleu(texts, references) == pytest.approx(expected.score)
    assert corpus_bleu(["The same four words."], [["the same four words."]]) == pytest.approx(100)


def test_rouge_l_by_hand():
    text, one, two = split(
        "police killed the gunman", "police kill the gunman", "the gunman killed police"
    )
    # Lin 2004, section 3.1: a common subsequence of 3 words, and of 2.
    assert rouge_l(text, [one]) == pytest.approx(3 / 4)
    assert rouge_l(text, [two]) == pytest.approx(2 / 4)
    assert rouge_l(text, [two, one]) == pytest.approx(3 / 4)
    assert rouge_l((), [one]) == 0


def test_cider_is_10_for_the_reference_and_0_for_other_words():
    references = [split("a cat sat on the mat"), split("dogs play in the park")]
    same, other = cider(
        [split("a cat sat on the mat"), split("red green blue black white")], references
    )
    assert same == pytest.approx([10])
    assert other == [0]


def test_cider_by_hand():
    references = [split("a b"), split("a c")]
    ((score,), _) = cider([split("b b d"), []], references)
    # "a" is in both and weighs nothing; "b" is clipped to once, of b b d with "d" as rare.
    rare = math.log(2)
    words_alike = rare * rare / (math.hypot(2 * rare, rare) * rare)
    assert score == pytest.approx(10 * words_alike / 4 * math.exp(-1 / 72))


# Form


def test_the_distance_of_lengths_is_in_words():
    distance = length_distance(length_counts([3, 5, 7]))
    assert distance(length_counts([3, 5, 7])) == 0
    assert distance(length_counts([5, 7, 9])) == pytest.approx(2)
    assert distance(length_counts([3, 5, 13])) == pytest.approx(2)
    assert np.allclose(
        distance(np.stack([length_counts([4, 6, 8]), length_counts([5])])), [1, 4 / 3]
    )


# Intervals


def test_an_interval_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    found = estimate(Measurement.of([(int(x), 1) for x in rng.random(400) < 0.5]), seed=0)
    half = 1.96 * math.sqrt(0.25 / 400)
    assert found.low == pytest.approx(found.value - half, abs=0.01)
    assert found.high == pytest.approx(found.value + half, abs=0.01)


@pytest.mark.parametrize("units", [8, 20])
def test_an_interval_is_wide_enough_where_units_are_few(units):
    rng = np.random.default_rng(units)
    within = 0
    for sample in rng.normal(0, 1, (400, units)):
        found = estimate(Measurement.of([(value, 1) for value in sample]), seed=0)
        assert found.units == units
        within += found.low <= 0 <= found.high
    assert within > 0.92 * 400


def test_a_distance_that_is_nearly_nothing_lies_in_its_interval():
    rng = np.random.default_rng(0)
    data = list(rng.poisson(9, 5000) + 1)
    distance = length_distance(length_counts(data))
    nearly_nothing = 0
    for seed in range(20):
        lengths = rng.poisson(9, 100) + 1
        counts = np.array([length_counts([length]) for length in lengths])
        found = estimate(Measurement(counts, distance, rises_by_chance=True), seed)
        assert found.low <= found.value <= found.high
        nearly_nothing += found.low < 0.1
    assert nearly_nothing >= 17


def test_few_units_tell_nothing_of_chance():
    few, more = (Measurement.of([(3, 1)] * units + [(0, 0)]) for units in (7, 8))
    other = Measurement.of([(1, 1)] * 8), Measurement.of([(1, 1)] * 9)
    assert not estimate(few, seed=0).has_interval
    assert difference(few, other[0], seed=0).may_be_chance
    assert not difference(more, other[1], seed=0).may_be_chance


def test_a_paired_difference_is_sharper_than_its_sides():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 10, 200)
    base = Measurement.of([(value, 1) for value in values])
    better = Measurement.of(
        [(value + 1 + noise, 1) for value, noise in zip(values, rng.random(200), strict=True)]
    )
    gap = difference(better, base, seed=0)
    assert 1.4 < gap.low < gap.value < gap.high < 1.6
    assert not gap.may_be_chance
    assert estimate(base, seed=0).may_be_chance


def test_the_same_seed_gives_the_same_interval():
    measured = Measurement.of([(number, 1) for number in range(30)])
    found = estimate(measured, seed=0)
    for units in range(2, 20):
        # Draws for other sizes push the first ones out of memory.
        estimate(Measurement.of([(1, 1)] * units), seed=0)
    assert estimate(measured, seed=0) == found
    assert estimate(measured, seed=1) != found


def test_ratios_are_of_sums():
    measured = Measurement.of([(1, 1), (0, 3)])
    assert estimate(measured, seed=0).value == 0.25
    assert estimate(measured.only([True, False]), seed=0).value == 1
    assert estimate(measured.only([False, False]), seed=0) is None
