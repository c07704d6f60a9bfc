"""Evaluations: what they read, what models make of texts, and the report."""

import json
import math
import os
import re
import sys
import threading
from datetime import datetime

import numpy as np
import pytest
from conftest import TITLES, run_command

from gpt2kw.errors import UserError
from gpt2kw.evaluation import likelihood, measuring
from gpt2kw.evaluation.bootstrap import Measurement
from gpt2kw.evaluation.coverage import as_written
from gpt2kw.evaluation.data import Prompt, Training, peoples_texts, read_prompts, repeated, shuffled
from gpt2kw.evaluation.figures import (
    Column,
    Figure,
    coverage_figures,
    finish_figures,
    judge_figures,
)
from gpt2kw.evaluation.finding import choose_training, find_models
from gpt2kw.evaluation.likelihood import Score, Scorer, find_judge, perplexity
from gpt2kw.evaluation.options import EvaluateOptions
from gpt2kw.evaluation.page import tell_of_earlier_report
from gpt2kw.evaluation.report import compare
from gpt2kw.evaluation.trigrams import Trigrams, check_trigrams
from gpt2kw.evaluation.writing import leave_out_refused
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import About, Model
from gpt2kw.model.runs import Run
from gpt2kw.text.format import Document, Record, render
from gpt2kw.training.corpus import checksum
from gpt2kw.training.resume import TEXT_CHECKSUM


def write_documents(path, records):
    path.write_text("".join(render(record) + "\n" for record in records), "utf-8")
    return path


def read(path, **fields):
    return read_prompts(EvaluateOptions(source=path, **fields))[0]


# What is read


def test_rows_with_the_same_keywords_are_one_prompt(tmp_path):
    path = tmp_path / "sets.csv"
    path.write_text('keywords,sentence\n"cat dog",One\n"Dog, cat",Two\nbird,Three\n,Four\n')
    prompts = read(path, references_field="sentence")
    found = {frozenset(p.keywords): {record.title for record in p.people} for p in prompts}
    assert sorted(map(sorted, found.values())) == [["One", "Two"], ["Three"]]
    assert all(not prompt.people for prompt in read(path))


def test_a_list_of_references_is_several_texts(tmp_path):
    path = tmp_path / "sets.jsonl"
    path.write_text('{"keywords": ["dog", "sea"], "sentences": ["A dog swims", "", "Dogs dive"]}\n')
    (prompt,) = read(path, references_field="sentences")
    assert [record.title for record in prompt.people] in (
        ["A dog swims", "Dogs dive"],
        ["Dogs dive", "A dog swims"],
    )


def test_options_of_tables_are_refused_for_text():
    for name in ("t.txt", "T.TXT", "t.txt.gz"):
        with pytest.raises(UserError, match="--references-field is 'title'; give a table"):
            EvaluateOptions(source=name, model="m", output="o", references_field="title")
    EvaluateOptions(source="t.csv.gz", model="m", output="o", references_field="title")


def test_a_separator_keeps_words_together(tmp_path):
    path = tmp_path / "sets.jsonl"
    path.write_text('{"keywords": "New York; cats"}\n{"keywords": ["old dog", "sea"]}\n')
    found = {prompt.keywords for prompt in read(path, keyword_sep=";")}
    assert found == {("New-York", "cats"), ("old-dog", "sea")}


def test_lists_that_cannot_be_guaranteed_are_left_out_and_said(tmp_path):
    records = [Record(None, "a b c d e f g", "Long"), Record(None, "cat", "A cat")]
    path = write_documents(tmp_path / "t.val.txt", records)
    prompts, notes = read_prompts(EvaluateOptions(source=path, keyword_mode=("plain", "guarantee")))
    assert [prompt.keywords for prompt in prompts] == [("cat",)]
    assert notes[0].startswith("1 lists of keywords left out: --keywords has 7 keywords")
    assert notes[1] == f"1 lists of keywords in {path} can be used"
    assert len(read(path, keyword_mode=("plain",))) == 2
    write_documents(path, records[:1])
    with pytest.raises(UserError, match="no list of keywords that can be used; --keywords has 7"):
        read(path)


def test_each_text_is_measured_once_and_needs_keywords(tmp_path):
    records = [
        Record("pets", "cat", "A cat"),
        Record("pets", "cat wall", "A cat"),
        Record("pets", "", "A cat"),
        Record("pets", "", "A dog"),
        Record("food", "cake", "A cake", "and cream"),
    ]
    path = write_documents(tmp_path / "t.val.txt", records)
    prompts = read(path)
    texts = [(p.category, record.title, record.body) for p in prompts for record in p.people]
    assert sorted(texts) == [("food", "A cake", "and cream"), ("pets", "A cat", None)]
    _, notes = read_prompts(EvaluateOptions(source=path))
    assert notes[0].startswith(f"1 of 5 documents of {path} are other keywords of the same texts")
    assert len(read(path, prompts=1)) == 1
    assert read(path, seed=1) == read(path, seed=1)


def test_a_source_without_keywords_says_so(tmp_path):
    path = write_documents(tmp_path / "t.txt", [Record(title="A cat")])
    with pytest.raises(UserError, match="no text with keywords"):
        read(path)


def test_seen_combinations_belong_to_one_text(tmp_path):
    records = [
        *(Record(None, "Cat wall", "One"), Record(None, "mouse", "One")),
        Record(None, "dog cat", "Two"),
    ]
    training = Training.read(write_documents(tmp_path / "t.txt", records))
    assert training.has_together(["cat", "wall"])
    assert training.has_together(["Dog"])
    assert training.has_together(["mouse", "cat", "wall"])
    assert not training.has_together(["dog", "wall"])
    assert not training.has_together(["bird"])


def test_what_models_are_compared_with(tmp_path):
    records = [Record(None, "x", f"{title} {n}") for n in range(5) for _, title in TITLES]
    training = Training.read(write_documents(tmp_path / "t.txt", records))
    prompts = [Prompt(None, ("x",), (record,)) for record in records]
    people = peoples_texts(prompts, 5)
    mixed = shuffled(people, seed=0)
    pairs = [(a[0].record.title, b[0].record.title) for a, b in zip(people, mixed, strict=True)]
    assert all(sorted(a.split()) == sorted(b.split()) for a, b in pairs)
    assert sum(a != b for a, b in pairs) > 35
    texts = repeated(training.records, 40, 3, seed=0)
    assert [len(some) for some in texts] == [3] * 40
    assert len({one.record.title for some in texts for one in some}) == 2


# Figures


def test_the_prompts_echo_is_no_coverage():
    prompts = [Prompt(None, ("cat", "wall"), ())]
    texts = [
        [Document(Record(None, "cat wall", "a cat")), Document(Record(None, "", "a cat, a wall"))]
    ]
    found = {f.name: f for f in coverage_figures(Column(texts), prompts, as_written, None)}
    assert found["each keyword"].measured.counts.tolist() == [[3, 4]]
    assert found["all keywords"].measured.counts.tolist() == [[1, 2]]
    assert found["all of 2"].measured.counts.tolist() == [[1, 2]]


def test_combinations_are_of_several_keywords():
    prompts = [Prompt(None, words, ()) for words in (("a",), ("a", "b"), ("c", "d"), ("e",))]
    texts = [[Document(Record(title=title))] for title in ("a", "a b", "c", "x")]
    found = {
        f.name: f
        for f in coverage_figures(Column(texts), prompts, as_written, [True, True, False, False])
    }
    seen = found["all, seen combination"].measured.counts
    unseen = found["all, unseen combination"].measured.counts
    assert seen.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert unseen.tolist() == [[0, 0], [0, 0], [0, 1], [0, 0]]


def test_what_is_cut_or_blank_is_counted():
    texts = [[Document(Record(title="a")), Document(Record(title="b"), finished=False)], []]
    parses, finished = finish_figures(texts, wanted=2)
    assert parses.measured.counts.tolist() == [[2, 2], [0, 2]]
    assert finished.measured.counts.tolist() == [[1, 2], [0, 0]]


def test_a_metric_that_tells_nothing_apart_is_left_out():
    rng = np.random.default_rng(0)

    def figure(name, mean, units=100):
        rows = [(value, 1) for value in rng.normal(mean, 1, units)]
        return Figure("form", name, Measurement.of(rows), "low", False, ())

    columns = {
        "run1": [figure("useful", 3), figure("useless", 9), figure("own", 1), figure("rare", 0)],
        "run2": [figure("useful", 4), figure("useless", 9)],
        "people": [figure("useful", 0), figure("useless", 5), figure("rare", 0, units=5)],
        "shuffled": [figure("useful", 5), figure("useless", 5), figure("rare", 0, units=5)],
    }
    rows, left_out, _ = compare(columns, ["run1", "run2"], seed=0)
    # Of five units nobody knows.
    assert [row.name for row in rows] == ["useful", "own", "rare"]
    assert left_out == ["form: useless"]
    assert list(rows[0].differences) == ["run2"]
    assert 0.5 < rows[0].differences["run2"].value < 1.5


# Perplexity


def test_a_model_that_knows_nothing_has_the_vocabulary_as_its_perplexity(tiny_model):
    model = Model.load(tiny_model)
    model.weights = {name: np.zeros_like(weight) for name, weight in model.weights.items()}
    scores = Scorer(model).after_keywords([Record("cats", "cat", "My cat"), Record(None, "", "A")])
    for score in scores:
        assert math.exp(score.nats / score.tokens) == pytest.approx(
            model.config["vocab_size"], 1e-4
        )
    sums = np.array([[sum(s.nats for s in scores), sum(s.tokens for s in scores)]])
    assert perplexity(sums) == pytest.approx([model.config["vocab_size"]], 1e-4)


def test_scores_are_those_of_transformers_for_what_follows_the_keywords(tiny_model):
    from gpt2kw.model.backend import tf
    from gpt2kw.model.keras import to_keras

    model = Model.load(tiny_model)
    rng = np.random.default_rng(0)
    model.weights = {
        n: w + rng.normal(0, 0.2, w.shape).astype("f4") for n, w in model.weights.items()
    }
    records = [Record("cats", "cat", title) for _, title in TITLES] + [Record(title="x " * 200)]
    *scores, too_long = Scorer(model).after_keywords(records)
    assert too_long is None
    keras_model = to_keras(model)
    for record, score in zip(records, scores, strict=False):
        (ids,) = model.tokenizer.encode([record])
        start = ids.index(model.tokenizer.tag("title")) + 1
        logs = tf.nn.log_softmax(keras_model(tf.constant([ids])).logits[0]).numpy()
        expected = -sum(logs[place - 1, ids[place]] for place in range(start, len(ids)))
        assert score.nats == pytest.approx(expected, rel=1e-4)
        assert score.tokens == len(ids) - start


def test_a_judge_reads_the_text_alone(tiny_model):
    scorer = Scorer(Model.load(tiny_model))
    short, long = scorer.alone(["My cat", "My cat stares at the wall"])
    assert 0 < short.nats < long.nats
    assert short.tokens < long.tokens


class Counting:
    """A judge that scored texts already."""

    tokens_are_words = True


def test_a_judge_compares_the_texts_that_compare_fairly():
    column = Column([[Document(Record(title="a cat"))] * 2, [Document(Record(title="dog"))]])
    scores = [[Score(5.0, 2), Score(9.0, 3)], [Score(3.0, 1)]]
    found = {f.name: f for f in judge_figures(column, scores, Counting(), [1, None])}
    assert found["by the judge, per word"].measured.counts.tolist() == [[14, 5], [3, 1]]
    assert found["by the judge, all covered"].measured.counts.tolist() == [[9, 3], [0, 0]]
    none = {f.name for f in judge_figures(column, scores, Counting(), [None, None])}
    assert none == {"by the judge, per word", "unknown to the judge"}


def test_trigrams_judge_whether_neighbouring_words_go_together():
    judge = Trigrams()
    people = "a dog is running on the beach with a ball in its mouth"
    shuffled = " ".join(sorted(people.split()))
    by_people, mixed, same = judge.alone([people, shuffled, people.title() + "!"])
    assert by_people == same
    assert by_people.tokens == mixed.tokens == 13
    assert by_people.nats < 0.75 * mixed.nats
    # From the model's file: the logarithm of its share behind the start of a text.
    assert judge.alone(["the"])[0] == (pytest.approx(2.92, abs=0.01), 1, 0)


def test_trigrams_leave_out_what_they_do_not_know():
    judge = Trigrams()
    alone = judge.alone(["", "2003", "I don\u2019t like zzgzz"])
    assert alone[:2] == [(0, 0, 0), (0, 0, 1)]
    assert alone[2] == (pytest.approx(judge.alone(["I don't like"])[0].nats), 3, 1)
    # Nothing is judged by a word before the unknown one.
    split, apart = judge.alone(["zzgzz the", "the zzgzz the"])
    assert apart.nats - judge.alone(["the"])[0].nats == pytest.approx(split.nats)


def test_without_pocketsphinx_trigrams_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(UserError, match=r"--judge trigrams needs pocketsphinx; pip install"):
        check_trigrams()


# The whole


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, training_text, tiny_model):
    """A folder with a run that has a checkpoint, and knows its training text."""
    folder = tmp_path_factory.mktemp("evaluation")
    run = Run(folder / "checkpoint/run1")
    run.create({"text": str(training_text), TEXT_CHECKSUM: checksum(training_text)})
    run.save(1, Model.load(tiny_model), {}, {}, keep=1)
    return folder


def test_one_command_makes_the_table_and_the_report(run_folder, training_text, tiny_model):
    result = run_command(
        "evaluate",
        training_text.with_name("titles.val.txt"),
        *("--temperature", 0.5, 1.5, "--nsamples", 2, "--max-tokens", 12, "--judge", tiny_model),
        cwd=run_folder,
    )
    assert result.returncode == 0, result.stderr
    head, *lines = result.stdout.splitlines()
    columns = ["run1 temperature 0.5", "run1 temperature 1.5", "people", "shuffled", "repeated"]
    assert re.split("  +", head.strip()) == columns
    assert any(re.match(r"  all keywords +\d+\.\d% \(\d", line) for line in lines)
    assert "8 lists of keywords in" in result.stderr

    folder = run_folder / "checkpoint/run1/evaluation"
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert [*report["models"], *report["comparisons"]] == columns
    assert report["training"] == str(training_text)
    rows = {row["name"]: row for row in report["rows"]}
    # The validation text of this fixture is part of the training text.
    assert rows["exact copies"]["figures"]["people"]["value"] == 1
    assert rows["by the judge, per word"]["figures"]["people"]["value"] > 1
    assert rows["all keywords"]["figures"]["people"]["value"] == 1
    assert set(rows["all keywords"]["differences"]) == {columns[1]}
    assert {source for row in rows.values() for source in row["sources"]} == set(
        report["definitions"]
    )
    assert len(report["samples"]) == 8
    assert len(report["samples"][0]["texts"][columns[0]]) == 2

    page = (folder / "report.html").read_text("utf-8")
    assert page.count('<img alt="') == page.count('src="data:image/svg+xml;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)|<script|@import', page)
    assert "The cat sleeps on the warm keyboard" in page


def test_an_earlier_report_is_named_before_it_is_replaced(tmp_path, caplog):
    caplog.set_level("INFO")
    tell_of_earlier_report(tmp_path / "missing")
    tell_of_earlier_report(tmp_path)
    assert not caplog.messages
    (tmp_path / "report.html").write_text("earlier")
    os.utime(tmp_path / "report.html", (0, 0))
    tell_of_earlier_report(tmp_path)
    day = datetime.fromtimestamp(0)
    expected = f"the report of {day:%Y-%m-%d %H:%M} in {tmp_path} will be replaced"
    assert caplog.messages == [expected]


def test_without_a_training_text_coverage_is_still_told_apart(tmp_path, tiny_model):
    lines = [json.dumps({"keywords": [f"w{n}"], "text": f"a w{n} is here"}) for n in range(40)]
    (tmp_path / "sets.jsonl").write_text("\n".join(lines))
    report = measuring.evaluate(
        source=tmp_path / "sets.jsonl",
        references_field="text",
        model=str(tiny_model),
        keyword_mode="plain",
        nsamples=1,
        max_tokens=8,
        output=tmp_path / "o",
    )
    rows = {row.name: row for row in report.rows}
    assert rows["all keywords"].figures["people"].value == 1
    assert rows["all keywords"].figures["repeated"].value < 0.2
    assert any("--nsamples 2 or more" in note for note in report.notes)


def test_models_that_learnt_from_something_else_are_named(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    folders = {}
    for name in ("one", "two", "three"):
        text = write_documents(tmp_path / f"{name[:2]}.txt", [Record(None, "cat", name[:2])])
        run = Run(tmp_path / "checkpoint" / name)
        run.create({"text": str(text), TEXT_CHECKSUM: checksum(text)})
        run.save(1, Model.load(tiny_model), {}, {}, keep=1)
        folders[name] = run.folder / "ckpt-1"
    options = EvaluateOptions(source="t.txt", run_name=tuple(folders))
    text, notes = choose_training(options, folders)
    assert text == tmp_path / "on.txt"
    assert len(notes) == 1
    assert "two, three learnt from something else" in notes[0]
    assert choose_training(options, {"one": folders["one"]}) == (text, [])


def test_what_a_model_can_t_be_asked_is_left_out_before_any_writes(tmp_path, tiny_model):
    prompts = [Prompt(None, (word,), ()) for word in ("cat", "antidisestablishmentarianism")]
    asked = GenerateOptions(max_tokens=6)
    left, (note,) = leave_out_refused(prompts, [tiny_model], [asked])
    assert left == prompts[:1]
    assert re.match(r"1 lists of keywords left out; of the first, the keywords take \d+ tok", note)
    with pytest.raises(UserError, match="the keywords take"):
        leave_out_refused(prompts[1:], [tiny_model], [asked])


def test_a_second_model_that_can_t_write_ends_it_before_the_first_has_written(
    tmp_path, tiny_model, monkeypatch
):
    other = Model.load(tiny_model)
    other.about = About((), ("title",))
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    monkeypatch.setattr(measuring, "write", None)
    with pytest.raises(UserError, match="the model was trained without keywords"):
        measuring.evaluate(
            source=write_documents(tmp_path / "t.txt", [Record(None, "cat", "A cat")]),
            model=(str(tiny_model), str(tmp_path / "other")),
            output=tmp_path / "o",
        )


def test_a_model_is_not_taken_for_what_it_is_compared_with(run_folder, tiny_model, monkeypatch):
    monkeypatch.chdir(run_folder)
    (run_folder / "people").symlink_to(tiny_model)
    options = EvaluateOptions(source="t.txt", run_name=("run1",), model=("people",), output="o")
    assert list(find_models(options)) == ["run1", "people (model)"]


def test_people_with_few_second_texts_are_compared_by_the_first_ones():
    texts = [[Document(Record(title=f"a{n} b{n}"), True)] for n in range(20)]
    alike = [some * (3 if n < 5 else 1) for n, some in enumerate(texts)]
    assert len(Column(alike).draws(range(20))) == 1
    assert len(Column([some * 3 for some in texts]).draws(range(20))) == 3


def test_a_judge_of_its_own_texts_is_refused(run_folder, tiny_model, monkeypatch):
    monkeypatch.chdir(run_folder)
    measured = [run_folder / "checkpoint/run1/ckpt-1"]
    with pytest.raises(UserError, match="--judge run1 is one of the models"):
        find_judge("run1", measured)
    assert find_judge(str(tiny_model), measured) == tiny_model


def test_settings_are_named_by_what_differs():
    options = EvaluateOptions(source="t.txt", temperature=(0.5, 1.0, 0.5), top_k=0)
    assert list(options.settings()) == ["temperature 0.5", "temperature 1"]
    one = options.settings()["temperature 0.5"]
    assert one == GenerateOptions(temperature=0.5, top_k=0, nsamples=5, seed=0, format="jsonl")
    assert list(EvaluateOptions(source="t.txt").settings()) == [""]
    with pytest.raises(UserError, match="--temperature is 0"):
        EvaluateOptions(source="t.txt", temperature=(0.0,))
    with pytest.raises(UserError, match="give -o"):
        EvaluateOptions(source="t.txt", model="gpt2")


def test_each_length_is_compiled_before_threads_share_the_rest(tiny_model, monkeypatch):
    monkeypatch.setattr(likelihood, "operations_stay_on_one_core", lambda: True)
    monkeypatch.setattr(likelihood, "usable_cores", lambda: 2)
    monkeypatch.setattr(likelihood, "_TOKENS", 64)
    scorer = likelihood.Scorer(Model.load(tiny_model))
    measure, calls = scorer._nats, []

    def record(ids, *others):
        calls.append((tuple(ids.shape), threading.get_ident()))
        return measure(ids, *others)

    monkeypatch.setattr(scorer, "_nats", record)
    records = [Record(None, "cat", "A cat " * count) for count in (1, 9, 1, 9, 1, 9, 1, 9, 1, 1, 1)]
    scores = scorer.after_keywords(records)
    assert scores == [scorer.after_keywords([record])[0] for record in records]
    shapes = [shape for shape, _ in calls]
    assert len(set(shapes)) == 2
    for shape in set(shapes):
        assert calls[shapes.index(shape)][1] == threading.get_ident()
    assert any(thread != threading.get_ident() for _, thread in calls)
