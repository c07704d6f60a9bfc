"""The forward pass with a cache: agreement with transformers, and rows that don't mix."""

import numpy as np
import pytest
from conftest import TITLES, with_clear_choices

from gpt2kw.generation.beams import BeamSearch
from gpt2kw.generation.network import CachedNetwork
from gpt2kw.generation.sampling import Path, Rules, Sampler, Sampling
from gpt2kw.model.backend import tf
from gpt2kw.model.folder import new_model
from gpt2kw.text.format import Record

LIKELIEST = Sampling(top_k=1)


def model_of(positions):
    """A model whose weights are so large that its choices are clear."""
    records = [Record(category, title, title) for category, title in TITLES]
    model = new_model(records, 400, 0, n_layer=2, n_head=2, n_embd=32, n_positions=positions)
    return with_clear_choices(model)


@pytest.fixture(scope="module")
def model():
    return model_of(64)


@pytest.fixture(scope="module")
def keras_model(model):
    from gpt2kw.model.keras import to_keras

    return to_keras(model)


def prompts(model):
    records = [Record("cats", "cat wall", "The"), Record(title=""), Record(None, "a b c", "Why my")]
    return list(model.tokenizer.encode(records, finished=False))


def rules(model, max_tokens, stops=()):
    return Rules(np.ones(model.config["vocab_size"], bool), tuple(stops) or (-1,), max_tokens)


def paths(some, seed=0):
    return [
        Path(place, prompt, 0, np.random.default_rng((seed, *prompt)))
        for place, prompt in enumerate(some)
    ]


def decode(model, some, max_tokens, sampling=LIKELIEST, dtype=tf.float32, seed=0, stops=()):
    network = CachedNetwork(model.weights, model.config, dtype)
    texts = paths(some, seed)
    network.decode(some, Sampler(texts, sampling, rules(model, max_tokens, stops)))
    return texts


def greedy(keras_model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(np.argmax(keras_model(tf.constant([ids])).logits[0, -1])))
    return ids[len(prompt) :]


def test_greedy_choices_agree_with_transformers_for_prompts_of_any_length(model, keras_model):
    some = prompts(model)
    for prompt, text in zip(some, decode(model, some, 20), strict=True):
        assert text.tokens == greedy(keras_model, prompt, 20)
        assert len(set(text.tokens)) > 5


def test_what_a_text_costs_is_what_transformers_says(model, keras_model):
    prompt = prompts(model)[0]
    (text,) = decode(model, [prompt], 12, Sampling())
    logits = keras_model(tf.constant([prompt + text.tokens])).logits[0]
    costs = tf.nn.sparse_softmax_cross_entropy_with_logits(
        text.tokens, logits[len(prompt) - 1 : -1]
    )
    assert text.nats == pytest.approx(float(tf.reduce_sum(costs)), abs=1e-3)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_text_is_the_same_alone_and_beside_any_others(model, dtype):
    some = [*prompts(model), *([9] * length for length in (1, 17, 33))]
    together = decode(model, some, 20, Sampling(), dtype)
    for prompt, text in zip(some, together, strict=True):
        (alone,) = decode(model, [prompt], 20, Sampling(), dtype)
        assert alone.tokens == text.tokens
        assert alone.nats == text.nats


def test_many_texts_of_one_prompt_are_the_same_alone(model):
    prompt = prompts(model)[0]
    network = CachedNetwork(model.weights, model.config, tf.float32)
    randoms = [np.random.default_rng(number) for number in range(9)]
    together = [Path(0, prompt, 0, random) for random in randoms]
    network.decode([prompt], Sampler(together, Sampling(), rules(model, 15)))
    (alone,) = [Path(0, prompt, 0, np.random.default_rng(4))]
    network.decode([prompt], Sampler([alone], Sampling(), rules(model, 15)))
    assert alone.tokens == together[4].tokens
    assert len({tuple(path.tokens) for path in together}) == 9


def test_searches_that_go_on_at_the_same_time_find_what_each_finds_alone(model):
    some = prompts(model)
    network = CachedNetwork(model.weights, model.config, tf.float32)
    together = [paths(some, seed) for seed in range(4)]
    samplers = [
        Sampler(each[seed % 2 :], Sampling(), rules(model, 30))
        for seed, each in enumerate(together)
    ]
    network.decode(some, *samplers)
    for seed, each in enumerate(together):
        alone = decode(model, some, 30, Sampling(), seed=seed)
        for place in range(seed % 2, len(some)):
            assert each[place].tokens == alone[place].tokens
            assert each[place].nats == alone[place].nats


class Failing(Sampler):
    """Fails at its third token."""

    def choose(self, logits, totals):
        if len(self._paths[0].tokens) == 2:
            raise ValueError("the third token")
        return super().choose(logits, totals)


def test_a_search_that_fails_stops_the_others(model):
    some = prompts(model)
    network = CachedNetwork(model.weights, model.config, tf.float32)
    endless, failing = paths(some), paths(some)
    with pytest.raises(Exception, match="the third token"):
        network.decode(
            some,
            Sampler(endless, Sampling(), rules(model, 100_000)),
            Failing(failing, Sampling(), rules(model, 10)),
        )
    assert len(endless[0].tokens) < 100_000
    network.decode(some, Sampler(paths(some), Sampling(), rules(model, 10)))


def test_each_core_gets_whole_groups_of_rows_that_are_worth_it(model, monkeypatch):
    network = CachedNetwork(model.weights, model.config, tf.float32)
    groups = [[number] * 2 for number in range(8)]
    assert network.shares(groups) == [groups]
    monkeypatch.setattr(network, "_cores", 4)
    assert network.shares(groups) == [groups[:2], groups[2:4], groups[4:6], groups[6:]]
    assert network.shares(groups[:4]) == [groups[:2], groups[2:4]]
    assert network.shares(groups[:1]) == [groups[:1]]
    assert network.shares([[0] * 100]) == [[[0] * 100]]
    large, small = [[0] * 6], [[1]] * 6
    assert network.shares([*large, *small]) == [large, small[:2], small[2:]]


def test_a_text_ends_behind_its_stop_and_the_others_go_on(model):
    some = prompts(model)
    free = decode(model, some, 20)
    stop = free[0].tokens[4]
    for before, after in zip(free, decode(model, some, 20, stops=[stop]), strict=True):
        place = before.tokens.index(stop) + 1 if stop in before.tokens else 20
        assert after.tokens == before.tokens[:place]


def test_short_texts_go_on_when_a_long_one_has_ended():
    model = model_of(256)
    some = [[9] * 150, *prompts(model)]
    free = decode(model, some, 90)
    others = {token for text in free[1:] for token in text.tokens}
    stop = next(token for token in free[0].tokens if token not in others)
    ended = decode(model, some, 90, stops=[stop])
    assert ended[0].tokens == free[0].tokens[: free[0].tokens.index(stop) + 1]
    assert len(ended[0].tokens) < 90
    assert [text.tokens for text in ended[1:]] == [text.tokens for text in free[1:]]


def test_a_text_longer_than_the_context_goes_on_behind_its_last_part(model, keras_model):
    prompt = prompts(model)[0]
    long, short = decode(model, [prompt, prompt[:3]], 100)
    head, kept = prompt[:32], 32
    assert long.tokens[: 64 - len(prompt)] == greedy(keras_model, prompt, 64 - len(prompt))
    # The token that finds no column left is chosen; then the model sees half its context.
    behind = long.tokens[: 64 - len(prompt) + 1]
    seen = head + behind[len(head) - kept :]
    place = len(behind)
    assert long.tokens[place : place + 10] == greedy(keras_model, seen, 10)
    assert len(long.tokens) == len(short.tokens) == 100
    (alone,) = decode(model, [prompt[:3]], 100)
    assert alone.tokens == short.tokens


def test_variables_are_read_anew_at_each_call(model):
    weights = {name: tf.Variable(weight) for name, weight in model.weights.items()}
    network = CachedNetwork(weights, model.config, tf.float32)
    some = prompts(model)
    first, second = paths(some), paths(some)
    network.decode(some, Sampler(first, LIKELIEST, rules(model, 8)))
    assert [path.tokens for path in first] == [path.tokens for path in decode(model, some, 8)]
    weights["transformer.ln_f.weight"].assign(-model.weights["transformer.ln_f.weight"])
    network.decode(some, Sampler(second, LIKELIEST, rules(model, 8)))
    assert [path.tokens for path in second] != [path.tokens for path in first]


def test_prompts_of_all_lengths_share_two_compiled_functions(model):
    network = CachedNetwork(model.weights, model.config, tf.float32)
    for length in (1, 5, 16, 17, 40):
        some = [[9] * length, [9]]
        network.decode(some, Sampler(paths(some), Sampling(), rules(model, 30)))
    assert network._read.experimental_get_tracing_count() == 1
    assert network._add[False].experimental_get_tracing_count() == 1


@pytest.mark.parametrize("length_penalty", [1.0, 0.5])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_agrees_with_transformers(model, keras_model, beams, length_penalty):
    network = CachedNetwork(model.weights, model.config, tf.float32)
    stop = greedy(keras_model, prompts(model)[0], 6)[4]
    for prompt in prompts(model):
        theirs = keras_model.generate(
            tf.constant([prompt]),
            attention_mask=tf.ones([1, len(prompt)], tf.int32),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=12,
            length_penalty=length_penalty,
            eos_token_id=stop,
            pad_token_id=0,
            do_sample=False,
            early_stopping=False,
        ).numpy()[:, len(prompt) :]
        search = BeamSearch(paths([prompt]), beams, length_penalty, rules(model, 12, [stop]))
        network.decode([prompt], search)
        ours = [path.tokens for path in search.best(0)]
        assert len(ours) == beams
        for mine, other in zip(ours, theirs.tolist(), strict=True):
            assert mine == other[: len(mine)]
            assert not any(other[len(mine) :])


def test_ways_to_end_take_no_beam_s_place():
    search = BeamSearch(paths([[0]]), 2, 1.0, Rules(np.ones(6, bool), (1, 2), 9))

    def choose(*rows):
        logits = np.array(rows, np.float32)
        return search.choose(logits, np.log(np.exp(logits).sum(axis=1)))[0].tolist()

    assert sorted(choose([0, 0, 0, 5, 5, 0], [0] * 6)) == [3, 4]
    # Likelier than the second best way to go on are one way to end, and three that are no
    # longer worth a place.
    assert sorted(choose([0, 9, 7, 0, 2, 0], [0, 7.5, 7.2, 8, 0, 0])) == [3, 4]


def diverse(model, prompt, max_tokens, beams, groups, penalty):
    network = CachedNetwork(model.weights, model.config, tf.float32)
    some = rules(model, max_tokens)
    search = BeamSearch(paths([prompt]), beams, 1.0, some, groups, penalty)
    network.decode([prompt], search)
    return [tuple(path.tokens) for path in search.best(0)]


def test_groups_of_beams_that_pay_nothing_find_the_same(model):
    for prompt in prompts(model):
        alone = diverse(model, prompt, 8, beams=3, groups=1, penalty=0)
        assert diverse(model, prompt, 8, beams=6, groups=2, penalty=0) == sorted(
            2 * alone, key=alone.index
        )


def test_a_group_of_beams_pays_for_each_beam_before_that_has_its_token(model, keras_model):
    penalty = 0.7
    for prompt in prompts(model):
        costs = -tf.nn.log_softmax(keras_model(tf.constant([prompt]))[0][0, -1]).numpy()
        expected, taken = [], np.zeros(len(costs))
        for _ in range(3):
            cheapest = np.argsort(costs + penalty * taken)[:2]
            taken[cheapest] += 1
            expected += cheapest.tolist()
        found = diverse(model, prompt, 1, beams=6, groups=3, penalty=penalty)
        assert found == [(token,) for token in sorted(expected, key=lambda token: costs[token])]


def test_groups_of_beams_that_pay_a_lot_share_no_token_at_any_place(model):
    for prompt in prompts(model):
        alone = diverse(model, prompt, 8, beams=2, groups=1, penalty=0)
        texts = diverse(model, prompt, 8, beams=6, groups=3, penalty=100)
        assert len(texts) == 6
        # The first group keeps away from nothing.
        assert set(alone) <= set(texts)
        for tokens in zip(*texts, strict=True):
            assert max(tokens.count(token) for token in tokens) <= 2
