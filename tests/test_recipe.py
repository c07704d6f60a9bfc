"""The recipe of the pretrained model: what it takes from its sources, and what it leaves."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2kw.model.folder import Model
from gpt2kw.text.format import Record, render

RECIPE = Path(__file__).parents[1] / "models" / "recipe"


# As for a script that runs there.
sys.path.insert(0, str(RECIPE))
names = ("clean", "critic", "fetch", "own", "rounded", "sets")
clean, critic, fetch, own, rounded, sets = map(importlib.import_module, names)
WORDS = "a the cat dog sat on mat and why does my house cost so much to heat is pig"
ENGLISH = WORDS.split()


def text(title, kind="sentence", source="commongen", **others):
    return clean.Text(source, kind, title, **others)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("  two   words\n here ", "two words here"),
        ("it\u2019s \u201cfine\u201d \u2013 really\u2026", 'it\'s "fine" - really...'),
        ("a dog , a cat and a pig .", "a dog, a cat and a pig."),
        ("the cat 's tail is n't long", "the cat's tail isn't long"),
        ("salt &amp; pepper\u200b", "salt & pepper"),
    ],
)
def test_texts_are_put_into_plain_form(raw, plain):
    assert clean.normalise(raw) == plain


@pytest.mark.parametrize(
    ("kind", "raw", "title"),
    [
        ("title", "[OC] my first loaf (from a tin)", "My first loaf"),
        ("film", "Long Day, The", "The Long Day"),
        ("software", "chess board for gnomes - documentation", "Chess board for gnomes"),
        ("caption", "a dog on a mat.", "A dog on a mat"),
        ("quote", "well begun is half done.", "Well begun is half done."),
    ],
)
def test_titles_take_the_form_of_their_kind(kind, raw, title):
    assert clean.as_title(text(raw, kind)) == title


@pytest.mark.parametrize(
    ("candidate", "fault"),
    [
        (text("The cat sat on the mat"), None),
        (text("The cat sat"), "too short"),
        (text("The cat sat " * 11), "too long"),
        (text("Die Katze sitzt auf der Matte"), "not English"),
        (text("The cat sat on the \u043c\u0430\u0442"), "not English"),
        (text("The cat sat on the swine"), "coarse"),
        (text("The dog is a pig dog and so much"), "coarse"),
        (text("Why does my cat sat", body="the swine sat on the mat"), "coarse"),
        (text("THE CAT sat ON THE MAT"), "in capitals"),
        (text("My house on the sub", "title"), "about the forum"),
        (text("Xyzzy: the cat sat on a mat", "definition"), "rare word"),
    ],
)
def test_a_text_is_left_out_for_one_named_fault(candidate, fault):
    words = clean.Filter([*ENGLISH, "swine", "sub"], {"swine", "pig dog"})
    assert words.fault(candidate) == fault


def test_texts_that_come_again_are_known_also_with_another_word():
    pytest.importorskip("datasketch", reason="comes with .[recipe]")
    known = clean.Known(0.6)
    first = "A brown dog runs along the wide beach with a red ball in its mouth"
    assert not known.add(first)
    assert known.add(first.upper())
    assert known.add(first.replace("mouth", "teeth"))
    assert not known.add("A brown dog sleeps on the sofa beside an old cat")


def test_no_text_is_left_of_a_concept_set_that_is_held_out(tmp_path):
    pytest.importorskip("datasketch", reason="comes with .[recipe]")
    words = ["cat", "dog", "mat", "house", "pig"]
    records = [
        {"source": "commongen", "kind": "sentence", "concepts": [a, b]}
        | {"title": f"The {a} sat on the {b} and why"}
        for a in words
        for b in words
        if a < b
    ]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "raw.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "english.txt").write_text("\n".join(ENGLISH))
    (tmp_path / "coarse.txt").write_text("swine\nswine dog\n")
    clean.clean(clean.CleanOptions(build=tmp_path, heldout_sets=4, similarity=0.95))
    heldout = [json.loads(line) for line in (tmp_path / "heldout.jsonl").open()]
    kept = {json.loads(line)["title"] for line in (tmp_path / "records.jsonl").open()}
    assert len(heldout) == 4
    assert len(kept) == 6
    assert kept.isdisjoint(sentence for held in heldout for sentence in held["sentences"])
    counts = json.loads((tmp_path / "counts.json").read_text())["sources"]["commongen"]
    assert (counts["fetched"], counts["held out"], counts["kept"]) == (10, 4, 6)


def test_wordnets_glosses_are_parted_into_definition_and_examples(tmp_path):
    data = tmp_path / "data.noun"
    data.write_text(
        "  1 This software and database is being provided\n"
        "00001740 03 n 01 kettle 0 001 @ 00001930 n 0000 | a metal pot; used to boil water; "
        '"put the kettle on"; "the kettle sings"; "a watched pot never boils"- J. Heywood  \n'
    )
    ((offset, gloss),) = fetch._wordnet_glosses(data)
    assert offset == "00001740"
    assert gloss.definition == "a metal pot; used to boil water"
    assert gloss.examples == ["put the kettle on", "the kettle sings"]


def test_a_source_that_cannot_be_had_says_why(tmp_path, monkeypatch):
    with pytest.raises(fetch.MissingSourceError, match="no --shared folder"):
        list(fetch.reddit_titles(None))
    with pytest.raises(fetch.MissingSourceError, match=r"has no coco_captions\.csv"):
        list(fetch.coco_captions(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.MissingSourceError, match="there is no apt-cache here"):
        list(fetch.debian_synopses())


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_DOWNLOADS", tmp_path)
    with pytest.raises(KeyboardInterrupt), fetch._download("npm/some") as (folder, missing):
        assert missing
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert list((tmp_path / "npm").iterdir()) == []
    with fetch._download("npm/some") as (folder, missing):
        (folder / "whole").touch()
    with fetch._download("npm/some") as (folder, missing):
        assert not missing
    assert (tmp_path / "npm/some/whole").exists()


def test_lists_of_keywords_are_as_many_of_each_number_and_of_different_sentences():
    records = [
        Record("sentence", " ".join("abcdefgh"[:number]), f"Sentence {sentence}")
        for sentence in range(60)
        for number in range(min(7, sentence % 9))
    ]
    drawn = sets.draw(records, 24, seed=0)
    numbers = [len((record.keywords or "").split()) for record in drawn]
    assert sorted(numbers) == sorted([1, 2, 3, 4, 5, 6] * 4)
    assert len({record.title for record in drawn}) == 24
    assert sets.draw(records, 24, seed=0) == drawn
    assert sets.draw(records, 24, seed=1) != drawn


def people(kind, number, lists):
    return [Record(kind, keywords, f"Text {number} of a {kind}") for keywords in lists]


def documents():
    titles = [r for n in range(9) for r in people("title", n, [f"cat{n} dog{n}", f"pig{n} hen{n}"])]
    lists = ("a b", "c d", "e f", "g")
    texts = [
        *titles,
        *(r for n in range(9) for r in people("sentence", n, [f"{w} s{n}" for w in lists])),
        *(r for n in range(9) for r in people("joke", n, [f"ha{n}"])),
    ]
    return titles, texts


def test_lists_of_keywords_to_write_about_are_drawn_from_the_texts():
    options = own.OwnOptions(task="wishes", titles=7, sentences=5, longer=3)
    drawn = list(own.wishes(*documents(), options))
    assert drawn == list(own.wishes(*documents(), options))
    assert [r.category for r in drawn] == ["title"] * 7 + ["sentence"] * 8
    assert len(set(drawn)) == 15
    assert {r.title for r in drawn} <= {r.title for r in documents()[1]}
    assert len({own.asked(r) for r in drawn}) == 15
    counts = [len(r.keywords.split()) for r in drawn]
    assert set(counts[:12]) <= {1, 2, 3}
    assert set(counts[12:]) <= {4, 5, 6}
    known = {r.keywords for r in documents()[1]}
    assert {r.keywords for r in drawn[:12]} <= known
    other = own.OwnOptions(task="wishes", round=2, titles=7, sentences=5, longer=3)
    assert list(own.wishes(*documents(), other)) != drawn


def test_of_what_was_written_texts_with_all_keywords_and_no_word_twice_are_kept():
    def texts(*titles):
        return [Record("title", "cat garden", title) for title in titles]

    good = texts("My cats in the garden", "A garden for a cat", "Gardens, cats and more")
    bad = texts("My cats", "Cats in the garden of cats", "A cat, a garden, \ufffd")
    other = [Record("title", "pig", "A pig")]
    chance = own.random.Random(1)
    chosen = own.kept(own.usable([*bad, *good, *good, *other]), 2, chance)
    assert len(chosen) == len(set(chosen)) == 3
    assert set(chosen) <= {*good, *other}


def test_its_own_texts_are_mixed_with_twice_as_many_by_people():
    titles, texts = documents()
    written = [Record("title", "x", f"x {n}") for n in range(6)]
    written += [Record("sentence", "y", f"y {n}") for n in range(4)]
    options = own.OwnOptions(task="mix", others=5)
    mixed = own.mix(written, titles, texts, options)
    assert mixed == own.mix(written, titles, texts, options)
    kinds = [r.category for r in mixed]
    # Its own, as many with few keywords, and as many with many.
    assert kinds.count("sentence") == 4 + 4 + 4
    assert kinds.count("joke") == 5
    # Some titles are without their kind, and none of another kind is.
    assert kinds.count("title") + kinds.count(None) == 6 + 6 + 6
    assert sum(len(r.keywords.split()) > 3 for r in mixed) == 4 + 6
    assert kinds.count("title") and kinds.count(None)
    assert {r.title for r in mixed if r.category is None} <= {r.title for r in written + titles}
    assert {r.title for r in written} <= {r.title for r in mixed}


def test_the_best_are_those_that_come_first():
    texts = {("title", "x"): [Record("title", "x", f"x {n}") for n in range(4)]}
    assert [r.title for r in own.best(texts, 2)] == ["x 0", "x 1"]


def write_text(path, records):
    path.write_text("".join(render(record) + "\n" for record in records), "utf-8")


def test_lists_about_which_it_hardly_ever_succeeds_are_written_about_again(tmp_path, monkeypatch):
    titles = [Record("title", word, f"A {word}") for word in ("cat", "dog")]
    for name in ("titles", "texts"):
        write_text(tmp_path / f"{name}.txt", titles)
    written = [("cat", "A cat"), ("cat", "The cat"), ("dog", "A pig"), ("dog", "The dog")]
    rows = [
        {"category": "title", "keywords": word, "title": title, "finished": True}
        for word, title in written
    ]
    (tmp_path / "written-1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for task in ("wishes", "hard"):
        arguments = ["own.py", task, "--build", str(tmp_path), "--rarely", "1"]
        monkeypatch.setattr(sys, "argv", arguments)
        own.main()
    hard = (tmp_path / "hard-1.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in hard] == [{"category": "title", "keywords": "dog"}]


def test_a_text_by_people_stands_beside_texts_about_the_same_keywords():
    people = [Record("title", "cat", "By people"), Record("title", "dog", "By people too")]
    written = {("title", "cat"): [Record("title", "cat", f"A cat {n}") for n in range(2)]}
    (choice,) = critic.choices(people, written, critic.random.Random(0))
    assert choice[0] == people[0]
    assert len(choice) == 1 + critic.OTHERS
    assert set(choice[1:]) == set(written["title", "cat"])


def test_no_text_by_people_is_in_both_halves():
    people = [Record("title", f"{k}{n}", f"Text {n}") for n in range(40) for k in "abc"]
    one, other = critic.halves(people)
    assert sorted(r.keywords for r in one + other) == sorted(r.keywords for r in people)
    assert len(one) > 30
    assert len(other) > 30
    assert not {r.title for r in one} & {r.title for r in other}


def test_copies_of_texts_by_people_are_not_judged():
    about = "title", "cat"
    texts = [Record(*about, "My cat!"), Record(*about, "A new cat")]
    found = critic.without_copies({about: texts}, [Record(*about, "my CAT")])
    assert found == {about: texts[1:]}
    assert critic.without_copies({about: texts[:1]}, texts) == {}


def test_a_critic_learns_to_find_texts_by_people(tiny_model, monkeypatch):
    monkeypatch.setattr(critic, "LEARNT", 0.01)
    chance = critic.random.Random(0)

    def sentence(words):
        return " ".join(chance.choices(words, k=5))

    drawn = []
    for n in range(40 * critic.LISTS):
        own_texts = [Record("cats", f"w{n}", sentence(["wall", "cake"])) for _ in range(3)]
        drawn.append([Record("cats", f"w{n}", sentence(["cat", "sleeps"])), *own_texts])
    model = Model.load(tiny_model)
    learnt = critic.train(model, drawn[critic.LISTS :], seed=0)
    scores = [learnt.score(choice) for choice in drawn[: critic.LISTS]]
    assert all(some[0] > some[1:].max() for some in scores)
    records = [record for choice in drawn[:4] for record in choice]
    found = critic.judged(learnt, records)
    expected = [score for some in scores[:4] for score in some]
    assert [found[record] for record in records] == pytest.approx(expected, abs=1e-3)
    ranked = critic.merits(found, model)
    assert ranked.keys() == found.keys()
    twin = critic.merits({records[0]: found[records[0]] + 4}, model)
    assert twin[records[0]] - ranked[records[0]] == pytest.approx(4 * critic.SHARE, abs=1e-4)


def test_weights_are_rounded_to_five_binary_digits():
    weights = np.array([1.0, 1.03, 1.04, -1.99, 0.0, 31.5, 6e-5, -0.1], np.float16)
    expected = [1.0, 1.0, 1.0625, -2.0, 0.0, 32.0]
    found = rounded.rounded(weights)
    assert found[:6].tolist() == expected
    assert np.all(np.abs(found - weights) <= np.abs(weights) / 32)
    assert np.array_equal(rounded.rounded(found), found)
