"""Choosing tokens: distributions as they are defined, and transforms on hand-made rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kw.generation.sampling import Path, Rules, Sampler, Sampling, likeliest
from gpt2kw.generation.transforms import bad_words, no_repeat_ngrams, repetition_penalty


def expected(logits, sampling):
    """The definitions, written plainly for one row."""
    p = np.exp(logits.astype("f8") / sampling.temperature)
    order = np.argsort(-p, kind="stable")[: sampling.top_k or None]
    among = p[order] / p[order].sum()
    kept = np.cumsum(among) - among < sampling.top_p
    kept &= among >= sampling.min_p * among[0]
    order, among = order[kept], among[kept] / among[kept].sum()
    if sampling.typical_p < 1:
        information = -np.log(among)
        nearest = np.argsort(np.abs(information - (among * information).sum()), kind="stable")
        reached = np.cumsum(among[nearest]) - among[nearest]
        chosen = nearest[reached < sampling.typical_p]
        order, among = order[chosen], among[chosen]
    result = np.zeros_like(p)
    result[order] = among / among.sum()
    return result


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.5),
        Sampling(top_k=5),
        Sampling(top_p=0.6),
        Sampling(2.0, 20, 0.5),
        Sampling(min_p=0.2),
        Sampling(typical_p=0.5),
        Sampling(1.3, 40, 0.9, 0.02, 0.8),
        Sampling(5.0, top_p=0.99),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(sampling):
    logits = np.random.default_rng(0).normal(0, 2, 3000).astype("f4")
    draws = 4000
    # The random numbers stand evenly, so each count is off by one or two at most.
    uniforms = (np.arange(draws) + 0.5) / draws
    drawn = np.concatenate(
        [
            sampling.draw(np.repeat(logits[None], len(some), axis=0), some)
            for some in np.split(uniforms, 20)
        ]
    )
    counts = np.bincount(drawn, minlength=len(logits))
    np.testing.assert_allclose(counts, expected(logits, sampling) * draws, atol=2.5)


def test_the_last_of_the_uniforms_draws_nothing_that_may_not_come():
    scores = np.full((1, 100), -np.inf, np.float32)
    scores[0, [3, 60]] = 1.0
    for sampling in (Sampling(), Sampling(top_k=40), Sampling(top_p=0.9), Sampling(typical_p=0.9)):
        assert sampling.draw(scores, np.array([np.nextafter(1, 0)]))[0] in (3, 60)
        assert sampling.draw(scores, np.array([0.0]))[0] in (3, 60)


@settings(deadline=None)
@given(
    rows=st.integers(1, 3),
    size=st.integers(1, 3000),
    count=st.integers(1, 60),
    levels=st.sampled_from([2, 50, 10**6]),
    seed=st.integers(0, 99),
)
def test_the_likeliest_are_those_that_sorting_finds(rows, size, count, levels, seed):
    # Few levels make many ties.
    scores = np.random.default_rng(seed).integers(0, levels, (rows, size)).astype(np.float32)
    scores[scores == 0] = -np.inf
    count = min(count, size)
    values, ids = likeliest(scores, count)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(values, np.take_along_axis(scores, order, axis=1))
    possible = values > -np.inf
    np.testing.assert_array_equal(ids[possible], order[possible])


def path(tokens, history=(), text_from=0):
    return Path(0, list(history), text_from, np.random.default_rng(0), tokens=list(tokens))


def test_repetition_makes_what_the_text_has_less_likely_but_not_the_keywords_asked_for():
    scores = np.array([2.0, -2.0, 2.0, 2.0, 2.0], np.float32)
    repetition_penalty(2.0)(scores, path([0, 1], history=[2, 3], text_from=1))
    assert scores.tolist() == [1.0, -4.0, 2.0, 1.0, 2.0]


def test_no_ngram_comes_twice():
    scores = np.zeros(9, np.float32)
    no_repeat_ngrams(3)(scores, path([1, 2, 3, 5, 1, 2, 4, 1, 2]))
    assert np.flatnonzero(scores).tolist() == [3, 4]
    scores = np.zeros(9, np.float32)
    no_repeat_ngrams(1)(scores, path([7]))
    assert np.flatnonzero(scores).tolist() == [7]


def test_bad_words_are_stopped_at_their_last_token():
    ban = bad_words([[5], [1, 2, 3], [2, 4]])
    scores = np.zeros(9, np.float32)
    ban(scores, path([1, 2]))
    assert np.flatnonzero(scores).tolist() == [3, 4, 5]
    scores = np.zeros(9, np.float32)
    ban(scores, path([]))
    assert np.flatnonzero(scores).tolist() == [5]


def test_where_all_is_banned_a_text_goes_on_all_the_same():
    everything = bad_words([[token] for token in range(4)])
    rules = Rules(np.array([True, True, False, True]), (3,), 5, (everything,))
    logits = np.zeros((1, 4), np.float32)
    text = path([])
    Sampler([text], Sampling(), rules).choose(logits, np.full(1, np.log(4), np.float32))
    assert text.tokens[0] in (0, 1, 3)
    assert text.nats == pytest.approx(np.log(4))
