"""Candidates that replace one another: which do, what they go on from, and what they cost."""

import numpy as np
import pytest
from conftest import TITLES, with_clear_choices
from hypothesis import given
from hypothesis import strategies as st

from gpt2kw.generation.guide import KeywordPlan, Lexicon
from gpt2kw.generation.network import CachedNetwork
from gpt2kw.generation.resampling import Resampler, _systematic, populations
from gpt2kw.generation.sampling import Path, Rules, Sampler, Sampling
from gpt2kw.generation.transforms import repetition_penalty
from gpt2kw.model.backend import tf
from gpt2kw.model.folder import new_model
from gpt2kw.text.format import Record

WARM = Sampling(temperature=0.7)


class Taste:
    """A guide that likes a token, and adds to its logit."""

    def __init__(self, token, worth=0.0, push=0.0):
        self.token, self.worth, self.push = token, worth, push
        self.forced, self.found = 0, 0

    @property
    def merit(self):
        return self.worth * self.found

    def steer(self, scores, logits, wish_to_end, left):
        scores[self.token] += self.push

    def add(self, token):
        self.found += token == self.token

    def copy(self):
        twin = Taste(self.token, self.worth, self.push)
        twin.found = self.found
        return twin


def candidates(count, guide=lambda: None, seed=0):
    return [
        Path(0, [1], 0, np.random.default_rng((seed, place)), guide()) for place in range(count)
    ]


def rules(size=6, max_tokens=50, transforms=()):
    return Rules(np.ones(size, bool), (size - 1,), max_tokens, transforms)


def ask(search, logits):
    logits = np.broadcast_to(np.array(logits, np.float32), (len(search._paths), len(logits)))
    return search.choose(logits.copy(), np.log(np.exp(logits).sum(axis=1)))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_copies_are_as_many_as_before_and_each_gets_its_share(weights, uniform):
    shares = np.array(weights) / sum(weights)
    copies = _systematic(shares, uniform)
    assert sum(copies) == len(shares)
    for share, count in zip(shares * len(shares), copies, strict=True):
        assert share - 1 - 1e-9 < count < share + 1 + 1e-9


def test_without_guides_texts_are_those_of_a_sampler():
    alone, together = candidates(8), candidates(8)
    sampler = Sampler(alone, WARM, rules())
    resampler = Resampler([together[:4], together[4:]], WARM, rules())
    logits = [0, 1, 2, 1, 0, -3]
    for _ in range(20):
        assert ask(sampler, logits)[0].tolist() == ask(resampler, logits)[0].tolist()
        assert sampler.compact().tolist() == resampler.compact().tolist()
    assert [path.tokens for path in alone] == [path.tokens for path in together]


@pytest.mark.parametrize("transforms", [(), (repetition_penalty(2.0),)])
def test_a_text_is_as_odd_as_its_guide_made_its_tokens_likelier(transforms):
    paths = candidates(6, lambda: Taste(2, push=0.5))
    logits = np.array([1, 2, 2, 2, 1, -30])
    ask(Resampler([paths], WARM, rules(transforms=transforms)), logits)
    own = logits.astype(float)
    if transforms:
        # The prompt's token.
        own[1] /= 2.0
    guided = own.copy()
    guided[2] += 0.5
    shares, pushed = (np.exp(each / 0.7) / np.exp(each / 0.7).sum() for each in (own, guided))
    for path in paths:
        (token,) = path.tokens
        assert path.weight == pytest.approx(np.log(shares[token] / pushed[token]), abs=1e-5)
    assert len({path.weight for path in paths}) > 1


def test_candidates_that_do_badly_go_on_from_those_that_do_well():
    groups = [candidates(9, lambda: Taste(2, worth=50.0), seed) for seed in range(2)]
    unlike = candidates(3, seed=5)
    search = Resampler([*groups, unlike], WARM, rules())
    free = Sampler(candidates(3, seed=5), WARM, rules())
    logits = [1, 1, 1, 1, 1, -30]
    for _ in range(4):
        _, parents, goes_on = ask(search, logits)
        assert parents.tolist() == list(range(21))
        ask(free, logits)
    assert not goes_on
    going = search.compact()
    for number, group in enumerate(groups):
        found = [path.guide.found for path in group]
        # All go on from those of the same text that had the most.
        assert len(set(found)) == 1
        assert found[0] > 0
        rows = range(9 * number, 9 * number + 9)
        assert set(going[rows.start : rows.stop]) < set(rows)
        sources = [group[row - rows.start] for row in going[rows.start : rows.stop]]
        assert [path.tokens for path in group] == [source.tokens for source in sources]
        assert (
            len({id(path.tokens) for path in group}) == len({id(path.guide) for path in group}) == 9
        )
    assert going[18:].tolist() == [18, 19, 20]
    assert [path.tokens for path in unlike] == [path.tokens for path in free._paths]
    # From here on they differ again.
    for _ in range(6):
        ask(search, logits)
    assert len({tuple(path.tokens) for path in groups[0]}) > 1


def test_texts_that_have_ended_stay_as_they_are():
    paths = candidates(6, lambda: Taste(2, worth=50.0))
    search = Resampler([paths], WARM, rules())
    for _ in range(3):
        ask(search, [1, 1, 1, 1, 1, -30])
    logits = np.full((6, 6), -30.0, np.float32)
    logits[:, 2] = 0
    logits[0] = [-30, -30, -30, -30, -30, 0]
    search.choose(logits, np.zeros(6, np.float32))
    first = list(paths[0].tokens)
    assert paths[0].ended
    assert first[-1] == 5
    assert 0 not in search.compact()
    for _ in range(8):
        ask(search, [1, 1, 1, 1, 1, -30])
        search.compact()
    assert paths[0].tokens == first


class Forcing(Taste):
    """A guide that leaves one token only, even a forbidden one."""

    def steer(self, scores, logits, wish_to_end, left):
        scores[:] = -np.inf
        scores[self.token] = logits[self.token]


def test_candidates_that_are_all_forced_onto_a_forbidden_token_stay_as_they_are():
    def forbid(scores, path):
        scores[2] = -np.inf

    paths = candidates(5, lambda: Forcing(2))
    search = Resampler([paths], WARM, rules(transforms=(forbid,)))
    for _ in range(8):
        with np.errstate(invalid="raise"):
            ask(search, [1, 1, 1, 1, 1, -30])
        assert search.compact().tolist() == [0, 1, 2, 3, 4]
    assert all(path.tokens == [2] * 8 for path in paths)


def test_candidates_are_parted_into_even_populations():
    assert [len(part) for part in populations(range(16))] == [8, 8]
    assert [len(part) for part in populations(range(17))] == [5, 6, 6]
    assert [list(part) for part in populations(range(3))] == [[0, 1, 2]]


@pytest.fixture(scope="module")
def model():
    records = [Record(category, title, title) for category, title in TITLES]
    return with_clear_choices(
        new_model(records, 400, 0, n_layer=2, n_head=2, n_embd=32, n_positions=32)
    )


def written(model, network, seeds):
    lexicon = Lexicon(model.tokenizer, model.config["vocab_size"])
    end = model.tokenizer.end
    allowed = model.tokenizer.may_follow_title(model.config["vocab_size"])
    plan = KeywordPlan(lexicon, ["cat", "quantum piano", "wall"], must=True, bars=[end])
    prompt = next(iter(model.tokenizer.encode([Record(None, "cat", "")], finished=False)))
    groups = [
        [Path(0, prompt, 0, np.random.default_rng((seed, n)), plan.guide()) for n in range(6)]
        for seed in seeds
    ]
    search = Resampler(groups, Sampling(1.0), Rules(allowed, (end,), 40))
    network.decode([prompt], search)
    return prompt, groups


def test_a_text_is_the_same_whatever_is_written_beside_it(model):
    network = CachedNetwork(model.weights, model.config, tf.float32)
    _, together = written(model, network, range(4))
    for seed in range(4):
        _, (alone,) = written(model, network, [seed])
        assert [path.tokens for path in alone] == [path.tokens for path in together[seed]]
        assert [path.nats for path in alone] == [path.nats for path in together[seed]]


def test_what_replaced_texts_cost_is_what_transformers_says(model):
    """So they went on from the keys and values of the text that they follow."""
    from gpt2kw.model.keras import to_keras

    keras_model = to_keras(model)
    network = CachedNetwork(model.weights, model.config, tf.float32)
    prompt, groups = written(model, network, range(2))
    shared = 0
    for group in groups:
        shared += len(group) - len({tuple(path.tokens[:4]) for path in group})
        for path in group:
            if len(prompt) + len(path.tokens) > 32:
                continue
            logits = keras_model(tf.constant([prompt + path.tokens])).logits[0]
            costs = tf.nn.sparse_softmax_cross_entropy_with_logits(
                path.tokens, logits[len(prompt) - 1 : -1]
            )
            assert path.nats == pytest.approx(float(tf.reduce_sum(costs)), abs=2e-3)
    assert shared
