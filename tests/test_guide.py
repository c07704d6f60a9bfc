"""Keywords in the decode loop: always there, as whole words, in time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2kw import Generator
from gpt2kw.errors import UserError
from gpt2kw.generation.guide import KeywordPlan, Lexicon
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.generation.sampling import Path, Rules, Sampler, Sampling
from gpt2kw.model.folder import new_model
from gpt2kw.text.format import Record
from gpt2kw.text.inflection import keyword_pattern
from gpt2kw.text.keywords import distinct_keywords

WORDS = "The cat sleeps on the warm keyboard while dogs bark at a piano in New York at midnight"


@pytest.fixture(scope="module")
def model():
    records = [Record("cats", word, WORDS) for word in WORDS.split()]
    return new_model(records, 330, 0, n_layer=1, n_head=2, n_embd=16, n_positions=128)


@pytest.fixture(scope="module")
def lexicon(model):
    return Lexicon(model.tokenizer, model.config["vocab_size"])


def write(model, lexicon, keywords, logits_of, max_tokens, prefix="", seed=0):
    """Let made-up logits write a text, and return it with whether it was stopped."""
    tokenizer, rows = model.tokenizer, model.config["vocab_size"]
    rules = Rules(tokenizer.may_follow_title(rows), (tokenizer.end,), max_tokens)
    plan = KeywordPlan(lexicon, keywords, must=True, bars=[tokenizer.end])
    text = Path(0, [], 0, np.random.default_rng(seed), plan.guide(prefix))
    sampler = Sampler([text], Sampling(), rules)
    while not text.ended:
        logits = logits_of(text)[None]
        totals = np.log(np.exp(logits.astype("f8")).sum(axis=1)).astype("f4")
        sampler.choose(logits, totals)
    pieces = b"".join(lexicon.pieces[token] for token in text.tokens)
    return pieces.decode("utf-8", "replace"), text.tokens[-1] == tokenizer.end


def noise(model, seed):
    rng = np.random.default_rng(seed)
    return lambda text: rng.normal(0, 3, model.config["vocab_size"]).astype(np.float32)


def against(model, lexicon, keywords):
    """Logits of a model that hates every token which any keyword has, and loves to end."""
    logits = np.zeros(model.config["vocab_size"], np.float32)
    for keyword in keywords:
        for trie in lexicon.tries(keyword):
            nodes = [trie]
            while nodes:
                node = nodes.pop()
                logits[list(node.children)] = -50
                nodes += node.children.values()
    logits[model.tokenizer.end] = 20
    return lambda text: logits


keyword_lists = st.lists(
    st.one_of(
        st.sampled_from(
            ["cat", "New-York", "midnight", "piano", "zyzzyva", "猫", "café", "🐈", "ß"]
        ),
        st.text(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
).map(distinct_keywords)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(keywords=keyword_lists.filter(bool), seed=st.integers(0, 99), more=st.integers(0, 30))
def test_any_keywords_come_as_whole_words_whatever_the_model_wants(
    model, lexicon, keywords, seed, more
):
    plan = KeywordPlan(lexicon, keywords, must=True, bars=[])
    needed = plan.needed
    for logits_of in (noise(model, seed), against(model, lexicon, keywords)):
        text, stopped = write(model, lexicon, keywords, logits_of, needed + more, seed=seed)
        for keyword in keywords:
            assert keyword_pattern(keyword).search(text), (keyword, text)
    # The last of them would end at once, and there is room for its end.
    assert stopped


def test_a_model_that_would_end_at_once_gives_the_keywords_and_ends(model, lexicon):
    logits = np.zeros(model.config["vocab_size"], np.float32)
    logits[model.tokenizer.end] = 30
    text, stopped = write(model, lexicon, ["cat", "piano"], lambda _: logits, 60)
    assert stopped
    assert keyword_pattern("cat").search(text)
    assert keyword_pattern("piano").search(text)


def test_a_keyword_inside_a_longer_word_does_not_count(model, lexicon):
    plan = KeywordPlan(lexicon, ["cat"], must=True, bars=[model.tokenizer.end])
    scores = np.zeros(model.config["vocab_size"], np.float32)
    for text, barred in [("a cat", False), ("a catalog", True), ("a cat.", False), ("Cats", False)]:
        row = scores.copy()
        plan.guide(text).steer(row, scores, 0.0, 50)
        assert (row[model.tokenizer.end] == -np.inf) == barred, text


def test_a_text_that_has_all_keywords_is_left_alone(model, lexicon):
    plan = KeywordPlan(lexicon, ["cat"], must=True, bars=[model.tokenizer.end])
    scores = np.zeros(model.config["vocab_size"], np.float32)
    plan.guide("My cat is").steer(scores, scores.copy(), 0.9, 1)
    assert not scores.any()


def test_missing_keywords_are_pushed_harder_once_the_text_would_have_ended(model, lexicon):
    plan = KeywordPlan(lexicon, ["piano"], must=False, bars=[])
    begin = list(plan.behind[0].children)
    pushes = []
    for wish in (0.0, 0.5, 1.0):
        guide, scores = plan.guide("The"), np.zeros(model.config["vocab_size"], np.float32)
        guide.steer(scores, scores, wish, 50)
        assert (scores[begin] > 0).all()
        assert set(np.flatnonzero(scores)) == set(begin)
        pushes.append(scores[begin[0]])
    assert pushes == sorted(pushes)
    assert pushes[0] < pushes[2]


def test_what_does_not_fit_is_an_error_before_anything_is_written(model):
    generator = Generator.of(model)
    with pytest.raises(UserError, match=r"take \d+ tokens, and --max-tokens is 2; give --max"):
        generator.generate(keywords="midnight piano", max_tokens=2)
    assert generator.generate(keywords="midnight piano", max_tokens=2, keyword_mode="prefer")


@pytest.mark.parametrize("beams", [0, 10])
def test_every_text_of_a_random_model_has_every_keyword(model, beams):
    generator = Generator.of(model)
    words = "cats midnight new-york blorfing café 🐈"
    texts = generator.generate(keywords=words, seed=0, beams=beams, nsamples=10)
    assert len(texts) == 10
    for text in texts:
        for keyword in words.split():
            assert keyword_pattern(keyword).search(text), (keyword, text)


def test_keywords_in_the_prompt_do_not_count_but_those_of_the_prefix_do(model):
    generator = Generator.of(model)
    options = GenerateOptions(keywords="piano", prefix="A piano is", seed=0, nsamples=3)
    assert [text.missing for text in generator.write([options], options)] == [[], [], []]
    without = replace(options, include_prefix=False)
    texts = list(generator.write([without], without))
    assert [text.missing for text in texts] == [[], [], []]
    assert not any(text.title.startswith("A piano is") for text in texts)
    for title in generator.generate(keywords="piano", seed=0, nsamples=3):
        assert "piano" in title.lower()


def test_a_text_that_goes_on_to_a_body_has_its_keywords_in_the_title(model):
    generator = Generator.of(model)
    options = GenerateOptions(
        keywords="cat piano", seed=0, format="jsonl", top_k=0, nsamples=150, candidates=1
    )
    records = [text.document.record for text in generator.write([options], options)]
    assert any(record.body for record in records)
    for record in records:
        assert keyword_pattern("cat").search(record.title)
        assert keyword_pattern("piano").search(record.title)


def test_a_title_ends_where_its_body_begins(model, lexicon):
    tokenizer = model.tokenizer
    body = tokenizer.tag("body")
    plan = KeywordPlan(lexicon, ["cat", "piano"], True, [tokenizer.end, body], body)
    (they,) = tokenizer.encode_content(["They met a piano"])
    whole, torn = plan.guide("A piano and a cat"), plan.guide("My cat")
    for guide in (whole, torn):
        for token in (body, *they):
            guide.add(token)
        scores = np.zeros(model.config["vocab_size"], np.float32)
        guide.steer(scores, scores.copy(), 0.9, 3)
        assert not scores.any()
    # What stands in the body is none of the title's.
    assert plan.guide("My cat is").merit <= torn.merit < whole.merit


def test_half_a_character_is_no_boundary(model, lexicon):
    plan = KeywordPlan(lexicon, ["caf"], must=True, bars=[model.tokenizer.end])
    guide = plan.guide("a caf")
    byte = {piece: token for token, piece in enumerate(lexicon.pieces) if len(piece) == 1}
    row = np.zeros(model.config["vocab_size"], np.float32)
    guide.add(byte[b"\xc3"])
    guide.add(byte[b"\xa9"])
    guide.steer(row, row.copy(), 0.0, 50)
    assert row[model.tokenizer.end] == -np.inf
