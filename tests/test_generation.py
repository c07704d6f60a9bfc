"""Generating: agreement with transformers, sampling, and what users ask for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import with_clear_choices

from gpt2kw import Generator
from gpt2kw.errors import UserError
from gpt2kw.generation.asking import Portion
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import EMBEDDING, About, Model, SamplingDefaults
from gpt2kw.model.runs import Run
from gpt2kw.text.normalise import normal_form
from gpt2kw.text.title_index import TitleIndex


@pytest.fixture
def model(tiny_model):
    """The tiny model with weights so large that its choices are clear."""
    return with_clear_choices(Model.load(tiny_model))


@pytest.fixture
def generator(model):
    return Generator.of(model)


def test_the_same_seed_gives_the_same_titles_for_any_batch_size(generator):
    one = generator.generate(keywords="cat", seed=5, nsamples=7, batch_size=1)
    many = generator.generate(keywords="cat", seed=5, nsamples=7, batch_size=4)
    other = generator.generate(keywords="cat", seed=6, nsamples=7)
    assert one == many
    assert one != other
    assert len(one) == 7


def test_without_a_seed_texts_differ_from_call_to_call(generator):
    assert generator.generate(keywords="cat") != generator.generate(keywords="cat")


def test_tokens_are_chosen_as_the_model_s_settings_say_unless_asked_otherwise(model):
    def titles(**asked):
        return Generator.of(model).generate(keyword_mode="plain", nsamples=4, seed=0, **asked)

    usual = titles()
    model.sampling = SamplingDefaults(5.0, 0, 0.99)
    assert titles() == titles(temperature=5.0, top_k=0, top_p=0.99) != usual
    assert titles(temperature=0.7, top_k=40, top_p=1.0) == usual


def test_candidates_are_not_drawn_too_much_alike(model):
    calm, wild = SamplingDefaults(temperature=0.2), SamplingDefaults(temperature=2.0)

    def temperature(usual, **asked):
        return GenerateOptions(**asked).sampling(usual).temperature

    assert temperature(calm, keyword_mode="plain") == 0.2
    assert temperature(calm, keyword_mode="plain", candidates=4) == 0.7
    assert temperature(calm, keyword_mode="prefer") == temperature(calm) == 0.7
    assert temperature(calm, temperature=0.3) == 0.3
    assert temperature(wild) == temperature(wild, keyword_mode="plain") == 2.0


def test_titles_begin_with_the_prefix_and_show_no_prompt(generator):
    for title in generator.generate(keywords="wall", category="cats", prefix="My cat", seed=0):
        assert title.startswith("My cat")
        assert "~^" not in title
        assert "<|startoftext|>" not in title


def test_structural_tokens_are_never_chosen_inside_a_title(model, generator):
    options = GenerateOptions(nsamples=50, seed=0, temperature=100.0, top_k=0, format="jsonl")
    for text in generator.write([options], options):
        record = text.document.record
        for section in (record.title, record.body or ""):
            assert "<|startoftext|>" not in section
            assert "~`" not in section


def test_a_longer_limit_continues_the_same_text(generator):
    short = generator.generate(seed=1, nsamples=3, max_tokens=5, temperature=5.0)
    longer = generator.generate(seed=1, nsamples=3, max_tokens=9, temperature=5.0)
    for a, b in zip(short, longer, strict=True):
        assert b.startswith(a.rstrip("\ufffd"))


def test_a_prompt_longer_than_the_context_is_an_error(generator):
    with pytest.raises(UserError, match=r"take \d+ tokens; the model sees 64"):
        generator.generate(keywords="cat", prefix="word " * 100)


def test_an_unknown_category_is_used_and_the_nearest_one_named(model, caplog):
    model.about = About(("cats", "dogs"), ("category", "keywords", "title"))
    with caplog.at_level("WARNING", "gpt2kw"):
        Generator.of(model).generate(category="cat", nsamples=1)
    assert "'cat' was not in the training text; did you mean 'cats'?" in caplog.text


def test_keywords_for_a_model_without_them_are_refused(model):
    model.about = About((), ("title",))
    generator = Generator.of(model)
    assert generator.generate(nsamples=1, seed=0)
    with pytest.raises(UserError, match="trained without keywords"):
        generator.generate(keywords="cat")


def test_a_model_that_never_learnt_the_format_is_refused(tiny_model, tmp_path):
    import shutil

    shutil.copytree(tiny_model, tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "~@"]
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if k != "~@"}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not know the format; fine-tune it first"):
        Generator.load(model=str(tmp_path / "plain")).generate(keywords="cat")


def test_a_missing_run_is_an_error_that_names_the_others(here):
    with pytest.raises(UserError, match="no run 'run1' with a checkpoint.*make finetune"):
        Generator.load("run1")
    (here / "checkpoint/jokes/ckpt-5").mkdir(parents=True)
    with pytest.raises(UserError, match="did you mean 'jokes'.*there are jokes"):
        Generator.load("joke")


def test_without_a_run_texts_come_from_mini_and_it_is_said(here, tiny_model, monkeypatch, caplog):
    monkeypatch.setattr("gpt2kw.model.named.MINI_FOLDERS", (tiny_model,))
    caplog.set_level("INFO")
    wanted = Generator.load(model=str(tiny_model)).generate(keywords="cat", seed=1, nsamples=3)
    assert Generator.load().generate(keywords="cat", seed=1, nsamples=3) == wanted
    assert "there is no run run1 yet; this is the model mini" in caplog.text


def test_a_run_goes_before_mini(here, model, monkeypatch):
    monkeypatch.setattr("gpt2kw.model.named.MINI_FOLDERS", ())
    run = Run.named("run1")
    run.create({})
    run.save(1, model, {}, {}, keep=1)
    assert len(Generator.load().generate(nsamples=2)) <= 2


def test_an_embedding_may_have_more_rows_than_there_are_tokens(model):
    weight = model.weights[EMBEDDING]
    model.weights[EMBEDDING] = np.concatenate([weight, np.full((640, weight.shape[1]), 9, "f4")])
    model = Model(model.config, model.tokenizer, model.weights)
    assert len(Generator.of(model).generate(nsamples=3, seed=0, top_k=0)) == 3


def test_top_k_may_be_more_than_the_vocabulary(generator):
    everything = generator.generate(seed=3, nsamples=2, top_k=0)
    assert generator.generate(seed=3, nsamples=2, top_k=10**12) == everything


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("cats dogs", ["cats", "dogs"]),
        ("cats,new-york , cats", ["cats", "new-york"]),
        ("", []),
        ("~@x \U0001f408", ["x", "\U0001f408"]),
    ],
)
def test_keywords_are_split_and_cleaned_as_the_encoder_does(text, keywords):
    assert GenerateOptions(keywords=text).keyword_list == keywords


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keywords": "!!! ..."}, "only punctuation"),
        ({"nsamples": 0}, "--nsamples is 0"),
        ({"temperature": 0.0}, "--temperature is 0.0; .*--top-k 1"),
        ({"temperature": 1e-300}, "--temperature is 1e-300"),
        ({"prefix": "\udcff"}, "--prefix is .*; give Unicode text"),
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"top_k": -1}, "--top-k is -1"),
        ({"top_p": 0.0}, "--top-p is 0.0"),
        ({"top_p": 2.0}, "--top-p is 2.0"),
        ({"max_tokens": 0}, "--max-tokens is 0"),
        ({"run_name": "a", "model": "b"}, "both name a model"),
        ({"beams": 10, "beam_groups": 3}, "--beam-groups 3 .*; give a multiple of 3 beams"),
        ({"beam_groups": 3}, "--beam-groups is 3; give --beams with it"),
        ({"beam_groups": 0}, "--beam-groups is 0"),
        ({"diversity_penalty": -1.0}, "--diversity-penalty is -1.0"),
        ({"diversity_penalty": 1.0}, "--diversity-penalty is 1.0; give --beam-groups with it"),
        ({"length_penalty": 2.0}, "--length-penalty is 2.0; give --beams with it"),
        ({"beams": 10, "top_p": 0.9}, "--top-p is 0.9; give it without --beams"),
        ({"sample_delim": "--", "format": "csv"}, "--sample-delim is '--'; give --format text"),
        (
            {"backend": "ctranslate2", "precision": "float32"},
            "--precision is 'float32'; give --backend tensorflow",
        ),
    ],
)
def test_options_out_of_range_are_named_with_their_value(fields, message):
    with pytest.raises(UserError, match=message):
        GenerateOptions(**fields)


@pytest.mark.parametrize("mode", ["guarantee", "prefer"])
def test_ctranslate2_looks_for_keywords_among_candidates(model, mode, caplog):
    pytest.importorskip("ctranslate2")
    generator = Generator.of(model, backend="ctranslate2")
    options = GenerateOptions(
        keywords="a", keyword_mode=mode, backend="ctranslate2", seed=0, nsamples=3, top_k=0
    )
    texts = list(generator.write([options], options))
    assert [text.number for text in texts] == sorted(text.number for text in texts)
    if mode == "guarantee":
        assert not any(text.missing for text in texts)
        assert len(texts) == 3 or "without all keywords" in caplog.text
    else:
        assert len(texts) == 3
    plain = GenerateOptions(backend="ctranslate2", seed=1, nsamples=4, prefix="My cat")
    titles = generator.generate(plain)
    assert len(titles) == 4
    assert all(title.startswith("My cat") for title in titles)
    with pytest.raises(UserError, match="loaded for another"):
        generator.generate(nsamples=1)


def test_what_ctranslate2_can_not_do_is_refused():
    with pytest.raises(UserError, match="--min-p is 0.1; give --backend tensorflow"):
        GenerateOptions(backend="ctranslate2", min_p=0.1)


def test_unique_texts_differ_in_more_than_case(model):
    options = GenerateOptions(nsamples=20, seed=0, unique=True, max_tokens=1, top_k=3)
    titles = [text.title for text in Generator.of(model).write([options], options)]
    assert len(titles) == len({normal_form(title) for title in titles}) > 1


def test_texts_of_one_request_differ_where_they_can(model):
    fields = {"keywords": "cat", "keyword_mode": "prefer", "candidates": 40, "seed": 0}
    options = GenerateOptions(**fields, nsamples=4, max_tokens=5, top_k=2)
    generator = Generator.of(model)
    alike = generator.outcomes([Portion(options, 0, range(4))], options)
    assert len({normal_form(text.title) for text in alike}) < 4
    titles = {0: [], 1: [], 2: []}
    for text in generator.write([options, replace(options, keywords="dog"), options], options):
        titles[text.request].append(normal_form(text.title))
    assert [(len(some), len(set(some))) for some in titles.values()] == [(4, 4)] * 3
    # Another request may have the same ones.
    assert set(titles[0]) & set(titles[2])
    # What can't differ is repeated rather than left out.
    assert len(generator.generate(options, top_k=1)) == 4


def test_novel_leaves_out_copies_of_training_titles(model, tmp_path, caplog):
    every = Generator.of(model).generate(nsamples=6, seed=0)
    TitleIndex.build(every[:3], tmp_path / "titles")
    generator = Generator.of(model, titles=tmp_path / "titles")
    new = generator.generate(nsamples=6, seed=0, novel=True)
    assert len(new) == 6
    assert not set(every[:3]) & set(new)
    assert every[3:] == new[3:]
    with pytest.raises(UserError, match="--novel needs to know"):
        Generator.of(model).generate(novel=True)


def test_texts_with_words_of_a_list_are_left_out(model, tmp_path):
    generator = Generator.of(model)
    words = tmp_path / "words.txt"
    words.write_text("cat\ndog\nthe\na\n")
    options = {"nsamples": 8, "seed": 0, "prefix": "x ", "word_list": words}
    for title in generator.generate(**options):
        assert not {"cat", "dog", "the", "a"} & set(normal_form(title).split())


def test_truncate_and_prefix_work_as_in_gpt_2_simple(generator):
    whole = generator.generate(seed=2, nsamples=3, prefix="My cat")
    mark = whole[0][8:10]
    cut = generator.generate(seed=2, nsamples=3, prefix="My cat", truncate=mark)
    assert cut[0] == whole[0][: whole[0].index(mark, 6)]
    bare = generator.generate(seed=2, nsamples=3, prefix="My cat", include_prefix=False)
    assert ["My cat" + text for text in bare] == whole


def test_a_raw_prompt_is_continued_by_a_model_without_the_format(tiny_model):
    model = Model.load(tiny_model)
    model.tokenizer.had_marks = False
    generator = Generator.of(model)
    for text in generator.generate(prompt="The old cat", nsamples=2, seed=0):
        assert text.startswith("The old cat")
        assert len(text) > len("The old cat")


def test_a_prompt_in_the_format_is_continued_as_a_document(generator):
    options = GenerateOptions(prompt="<|startoftext|>~`cats~^wall~@My", nsamples=1, seed=0)
    (text,) = generator.write([options], options)
    assert text.document.record.category == "cats"
    assert text.title.startswith("My")


@pytest.mark.parametrize("backend", ["tensorflow", "ctranslate2"])
def test_bad_words_do_not_come(model, backend):
    pytest.importorskip(backend)
    options = {"seed": 1, "nsamples": 60, "top_k": 0, "temperature": 2.0, "backend": backend}
    generator = Generator.of(model, backend=backend)
    free = generator.generate(**options)
    assert any({"cat", "dog"} & set(normal_form(title).split()) for title in free)
    for title in generator.generate(**options, bad_words="cat, dog"):
        assert not {"cat", "dog"} & set(normal_form(title).split())


def test_a_long_prompt_does_not_cut_its_neighbours(model):
    pytest.importorskip("ctranslate2")
    generator = Generator.of(model, backend="ctranslate2")
    options = GenerateOptions(seed=1, nsamples=8, top_k=0, backend="ctranslate2")
    long = replace(options, prefix="x" * (model.context - 6))
    alone = list(generator.write([options], options))
    beside = [text for text in generator.write([options, long], options) if not text.request]
    longest = max(len(text.title) for text in alone)
    assert longest > 20
    assert max(len(text.title) for text in beside) > 20


def test_a_seed_holds_for_ctranslate2_from_whichever_request_on(model):
    pytest.importorskip("ctranslate2")
    options = GenerateOptions(seed=1, nsamples=4, top_k=0, backend="ctranslate2")

    def titles(place):
        generator = Generator.of(model, backend="ctranslate2")
        portion = Portion(options, place, range(4))
        return [text.title for text in generator.outcomes([portion], options)]

    assert titles(3) == titles(3)
    assert titles(3) != titles(0)


def test_ctranslate2_is_told_the_bad_words(model, monkeypatch):
    pytest.importorskip("ctranslate2")
    generator = Generator.of(model, backend="ctranslate2")
    engine, written = generator._network, []

    def generate(prompts, **settings):
        found = type(engine).generate(engine, prompts, **settings)
        written.extend((tokens, settings["banned"]) for ((tokens, _),) in found)
        return found

    monkeypatch.setattr(engine, "generate", generate)
    generator.generate(
        nsamples=30, top_k=0, temperature=3.0, backend="ctranslate2", bad_words="cat"
    )
    assert len(written) >= 30
    for tokens, banned in written:
        assert len(banned) == 6
        runs = [tokens[start : start + len(bad)] for bad in banned for start in range(len(tokens))]
        assert not [run for run in runs if run in banned]


def test_texts_go_to_a_file_as_the_command_writes_them(generator, tmp_path):
    options = {"seed": 0, "nsamples": 3, "prefix": "My", "sample_delim": "===="}
    assert generator.generate_to_file(tmp_path / "out.txt", **options) == 3
    texts = (tmp_path / "out.txt").read_text("utf-8").split("\n====\n")
    assert len(texts) == 3
    assert all(text.startswith("My") for text in texts)
