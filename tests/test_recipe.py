"""The recipe of the pretrained model: what it takes from its sources, and what it leaves."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from gpt2kw.text.format import Record

RECIPE = Path(__file__).parents[1] / "models" / "recipe"


def _load(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


clean, fetch, sets = _load("clean"), _load("fetch"), _load("sets")
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
