"""Generation through CTranslate2: agreement with transformers, sampling, limits, seeds."""

import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from conftest import with_clear_choices

from gpt2kw.errors import UserError
from gpt2kw.generation.ctranslate2_engine import Engine
from gpt2kw.model.folder import EMBEDDING, Model
from gpt2kw.text.format import Record

RECORDS = [Record("cats", "cat wall", "The"), Record(title=""), Record(None, "a b c", "Why my")]


@pytest.fixture(scope="module")
def model(tiny_model):
    """The tiny model with weights so large that its choices are clear."""
    model = with_clear_choices(Model.load(tiny_model))
    # What only rounds the embedding's size would be chosen everywhere.
    assert model.config["vocab_size"] > model.tokenizer.size
    model.weights[EMBEDDING][model.tokenizer.size :] *= 100
    return model


@pytest.fixture(scope="module")
def prompts(model):
    """Of different lengths, one of them 1."""
    return [*model.tokenizer.encode(RECORDS, finished=False), [model.tokenizer.start]]


@pytest.fixture(scope="module")
def engine(model):
    pytest.importorskip("ctranslate2")
    return Engine(model, "float32")


@pytest.fixture(scope="module")
def logits(model):
    """A function of ids [batch, length]: logits [batch, length, tokens] by transformers."""
    from gpt2kw.model.backend import tf
    from gpt2kw.model.keras import to_keras

    keras_model = to_keras(model)
    return lambda ids: keras_model(tf.constant(ids)).logits.numpy()[..., : model.tokenizer.size]


def nats(logits):
    """Log probabilities, in double precision."""
    shifted = logits.astype("f8") - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def likeliest(logits, prompt, steps, adjust=lambda logits, added: logits):
    """Return the tokens of always the likeliest choice, and their nats together."""
    ids, total = list(prompt), 0.0
    for _ in range(steps):
        step = nats(adjust(logits([ids])[0, -1], ids[len(prompt) :]))
        ids.append(int(step.argmax()))
        total += step.max()
    return ids[len(prompt) :], total


def test_likeliest_choices_agree_with_transformers_for_prompts_of_any_length(
    engine, prompts, logits
):
    results = engine.generate(prompts, max_tokens=15, top_k=1)
    for prompt, [sample] in zip(prompts, results, strict=True):
        tokens, total = likeliest(logits, prompt, 15)
        assert sample.tokens == tokens
        assert sample.log_probability == pytest.approx(total, abs=1e-3)
        assert len(set(tokens)) > 5


def test_int8_weights_are_small_and_nearly_as_good(model, engine, prompts, logits):
    before = {name: weight.copy() for name, weight in model.weights.items()}
    int8 = Engine(model)
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weight, before[name], err_msg=name)
    sizes = [len(e._files["model.bin"]) for e in (int8, engine)]
    assert sizes[0] < 0.35 * sizes[1]
    results = int8.generate(prompts, max_tokens=20, seed=0)
    for prompt, [sample] in zip(prompts, results, strict=True):
        steps = nats(logits([prompt + sample.tokens]))[0, len(prompt) - 1 : -1]
        exact = np.take_along_axis(steps, np.array(sample.tokens)[:, None], axis=1).sum()
        assert exact != sample.log_probability
        assert sample.log_probability == pytest.approx(exact, abs=20 * 0.1)


def test_a_text_ends_behind_its_stop_token(engine, prompts):
    free = [row[0].tokens for row in engine.generate(prompts, max_tokens=15, top_k=1)]
    stop = free[0][4]
    stopped = engine.generate(prompts, max_tokens=15, top_k=1, stops=[stop, 399])
    for before, [sample] in zip(free, stopped, strict=True):
        wanted = before[: before.index(stop) + 1] if stop in before else before
        assert sample.tokens == wanted
    assert len(stopped[0][0].tokens) <= 5


def test_nothing_ends_a_text_where_no_stops_are_given(engine, model, prompts):
    end = model.tokenizer.end
    others = [token for token in range(model.tokenizer.size) if token != end]
    settings = {"max_tokens": 4, "suppressed": others}
    [[free]] = engine.generate(prompts[:1], **settings)
    [[stopped]] = engine.generate(prompts[:1], stops=[end], **settings)
    assert (free.tokens, stopped.tokens) == ([end] * 4, [end])


def test_suppressed_and_unused_ids_never_come(model, engine, prompts):
    suppressed = list(range(0, model.tokenizer.size, 2))
    results = engine.generate(
        prompts,
        max_tokens=20,
        temperature=100.0,
        suppressed=suppressed,
        samples_per_prompt=20,
        seed=0,
    )
    chosen = {token for row in results for sample in row for token in sample.tokens}
    assert chosen <= set(range(1, model.tokenizer.size, 2))
    assert len(chosen) > 150


def expected_probabilities(step, temperature, top_k, top_p):
    """The definition of temperature, top-k and top-p, written plainly."""
    p = np.exp(step / temperature)
    order = np.argsort(-p)[: top_k or None]
    best = p[order] / p[order].sum()
    nucleus = order[np.cumsum(best) - best < top_p]
    kept = np.zeros_like(p)
    kept[nucleus] = p[nucleus] / p[nucleus].sum()
    return kept


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.6), (2.0, 20, 0.5), (3.0, 10**9, 1.0)],
)
def test_tokens_are_drawn_with_their_probabilities(
    engine, prompts, logits, temperature, top_k, top_p
):
    draws = 4000
    step = nats(logits([prompts[0]]))[0, -1]
    p = expected_probabilities(step, temperature, top_k, top_p)
    [samples] = engine.generate(
        prompts[:1],
        max_tokens=1,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        samples_per_prompt=draws,
        seed=0,
    )
    counts = np.bincount([sample.tokens[0] for sample in samples], minlength=len(p))
    assert (counts[p == 0] == 0).all()
    assert (np.abs(counts - p * draws) <= 5 * np.sqrt(p * draws) + 1).all()
    # The model's own, whatever the temperature; and the likeliest come first.
    found = [sample.log_probability for sample in samples]
    np.testing.assert_allclose(found, [step[s.tokens[0]] for s in samples], atol=1e-4)
    assert found == sorted(found, reverse=True)


def test_a_seed_repeats_the_calls_behind_it(model, engine, prompts):
    def calls(engine, seed):
        first = engine.generate(prompts, max_tokens=8, samples_per_prompt=2, seed=seed)
        return first, engine.generate(prompts, max_tokens=8, samples_per_prompt=2)

    first, second = calls(engine, 2**100)
    assert first != second
    assert calls(engine, 2**100) == (first, second)
    assert calls(engine, 1)[0] != first
    assert calls(Engine(model, "float32"), 2**100) == (first, second)


def test_without_a_seed_texts_differ_from_engine_to_engine(model, prompts):
    pytest.importorskip("ctranslate2")
    one, other = (Engine(model).generate(prompts, max_tokens=20) for _ in range(2))
    assert one != other


def test_always_the_likeliest_needs_one_run_for_many_samples(engine, prompts):
    [samples] = engine.generate(prompts[:1], max_tokens=5, top_k=1, samples_per_prompt=3)
    assert len(samples) == 3
    assert len(set(samples[0].tokens)) > 1
    assert samples[0] == samples[1] == samples[2]


def test_beam_search_finds_the_likeliest_text(engine, model, prompts, logits):
    prompt, size = prompts[2], model.tokenizer.size
    steps = nats(logits([[*prompt, token] for token in range(size)])[:, -2:])
    joint = steps[0, 0][:, None] + steps[:, 1]
    best = np.argsort(-joint, axis=None)[:3]
    [samples] = engine.generate([prompt], max_tokens=2, beams=100, samples_per_prompt=3)
    assert [s.tokens for s in samples] == [[int(i) // size, int(i) % size] for i in best]
    np.testing.assert_allclose(
        [sample.log_probability for sample in samples], joint.flat[best], atol=1e-3
    )


def test_beam_search_weighs_length_by_its_penalty(engine, prompts):
    stops = list(range(0, 300, 3))
    lengths = {}
    for penalty in (0.0, 1.0, 3.0):
        rows = engine.generate(
            prompts,
            max_tokens=12,
            beams=6,
            samples_per_prompt=6,
            stops=stops,
            length_penalty=penalty,
        )
        for row in rows:
            scores = [s.log_probability / len(s.tokens) ** penalty for s in row]
            np.testing.assert_allclose(scores, sorted(scores, reverse=True), atol=1e-5)
        lengths[penalty] = sum(len(row[0].tokens) for row in rows)
    assert lengths[0.0] < lengths[3.0]


def test_neighbours_change_no_beam(engine, model, prompts):
    # A text that may end at once is what CTranslate2 holds back beside a shorter prompt.
    stops = range(1, model.tokenizer.size, 2)
    settings = {"max_tokens": 6, "beams": 4, "samples_per_prompt": 4, "stops": stops}
    for prompt, row in zip(prompts, engine.generate(prompts, **settings), strict=True):
        [alone] = engine.generate([prompt], **settings)
        assert [sample.tokens for sample in row] == [sample.tokens for sample in alone]


def test_the_repetition_penalty_is_for_added_tokens_alone(engine, prompts, logits):
    def penalize(logits, added):
        for token in set(added):
            logits[token] *= 3 if logits[token] < 0 else 1 / 3
        return logits

    results = engine.generate(prompts, max_tokens=12, top_k=1, repetition_penalty=3.0)
    for prompt, [sample] in zip(prompts, results, strict=True):
        tokens, total = likeliest(logits, prompt, 12, penalize)
        assert sample.tokens == tokens
        assert sample.log_probability == pytest.approx(total, abs=1e-3)


def test_no_run_of_tokens_comes_twice(engine, prompts):
    settings = {"max_tokens": 40, "temperature": 0.3, "samples_per_prompt": 5, "seed": 0}

    def repeats(**more):
        rows = engine.generate(prompts, **settings, **more)
        pairs = [list(pairwise(sample.tokens)) for row in rows for sample in row]
        return sum(len(some) - len(set(some)) for some in pairs)

    assert repeats() > 0
    assert repeats(no_repeat_ngram=2) == 0


def test_banned_runs_of_tokens_never_come(engine, prompts):
    settings = {"max_tokens": 20, "samples_per_prompt": 20, "temperature": 0.5, "seed": 0}

    def pairs(**more):
        rows = engine.generate(prompts, **settings, **more)
        return Counter(pair for row in rows for s in row for pair in pairwise(s.tokens))

    usual = [list(pair) for pair, _ in pairs().most_common(3)]
    free = pairs(banned=usual)
    assert not any(tuple(pair) in free for pair in usual)
    # Each token alone may come.
    assert {token for pair in usual for token in pair} <= {token for pair in free for token in pair}


def test_no_prompts_give_no_texts(engine):
    assert engine.generate([], max_tokens=5) == []


def test_without_ctranslate2_the_error_says_how_to_install_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match=r"CTranslate2 can't be imported: .*; pip install 'gpt2kw"):
        Engine(model)
