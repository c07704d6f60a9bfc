"""The pretrained model that comes with gpt2kw."""

import numpy as np
import pytest

from gpt2kw import Generator
from gpt2kw.evaluation.likelihood import Scorer
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model
from gpt2kw.model.named import MINI_SHAPE, MINI_VOCABULARY, find_model
from gpt2kw.text.format import Record
from gpt2kw.text.inflection import keyword_pattern

FOLDER = find_model("mini")


@pytest.fixture(scope="module")
def mini():
    return Model.load(FOLDER)


@pytest.fixture(scope="module")
def generator():
    return Generator.load(model="mini")


def test_it_is_small_and_has_the_shape_of_a_new_model(mini):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 32e6
    assert {name: mini.config[name] for name in MINI_SHAPE} == MINI_SHAPE
    assert mini.tokenizer.size == MINI_VOCABULARY
    assert 10e6 < sum(weight.size for weight in mini.weights.values()) < 15e6


def test_it_knows_the_kinds_of_text_that_its_card_names(mini):
    card = (FOLDER / "README.md").read_text("utf-8")
    assert set(mini.about.categories) == {
        line.split("`")[1] for line in card.splitlines() if line.startswith("| `")
    }
    assert {"category", "keywords", "title"} <= set(mini.about.sections)


def test_sentences_are_likelier_than_their_words_shuffled(mini):
    sentences = [
        "My dog learned how to open the fridge",
        "A man is riding a bicycle down the street",
        "What is the best way to learn the guitar?",
        "I found this old book in the library",
        "The children are playing in the garden",
    ]
    random = np.random.default_rng(0)
    shuffled = [" ".join(random.permutation(text.split())) for text in sentences]
    scorer = Scorer(mini)

    def nats(texts):
        records = [Record(None, "", text) for text in texts]
        return [score.nats / score.tokens for score in scorer.after_keywords(records)]

    for likely, unlikely in zip(nats(sentences), nats(shuffled), strict=True):
        assert likely < unlikely - 1


def test_keywords_make_their_texts_likelier(mini):
    texts = {"dog fridge": "My dog learned how to open the fridge", "guitar": "I play the guitar"}
    asked = [Record(None, keywords, text) for keywords, text in texts.items()]
    unasked = [Record(None, "", text) for text in texts.values()]
    scorer = Scorer(mini)
    pairs = zip(scorer.after_keywords(asked), scorer.after_keywords(unasked), strict=True)
    assert all(with_keywords.nats < without.nats - 2 for with_keywords, without in pairs)


@pytest.mark.parametrize(
    "keywords", ["cats", "cats midnight piano", "dog kitchen fire phone rain sun"]
)
def test_its_texts_have_every_keyword(generator, keywords):
    options = GenerateOptions(keywords=keywords, nsamples=5, seed=0)
    texts = list(generator.write([options], options))
    assert len(texts) == 5
    assert not any(text.missing for text in texts)
    assert all(text.document.finished for text in texts)


def test_left_to_itself_it_has_most_keywords(generator):
    words = ["cats", "guitar", "computer", "school", "beach", "coffee", "train", "movie"]
    found = [
        bool(keyword_pattern(word).search(title))
        for word in words
        for title in generator.generate(keywords=word, keyword_mode="plain", nsamples=5, seed=0)
    ]
    assert len(found) == 40
    assert np.mean(found) > 0.8


def test_transformers_writes_what_gpt2kw_does():
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    asked = tokenizer("<|startoftext|>~^cats garden~@", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(FOLDER, torch_dtype="float32")
    ids = model.generate(**asked, do_sample=False, max_new_tokens=20)[0]
    title = tokenizer.decode(ids[asked["input_ids"].shape[1] :], skip_special_tokens=True)
    ours = Generator.load(model="mini", precision="float32")
    options = {"keywords": "cats garden", "keyword_mode": "plain", "top_k": 1, "max_tokens": 20}
    assert ours.generate(**options, nsamples=1) == [title]
