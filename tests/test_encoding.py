"""From tables to training text: what is written, and that it is always the same."""

import contextlib
import os
import signal
import threading
import time
from collections import defaultdict
from itertools import pairwise

import psutil
import pytest
import ray
from conftest import TITLES, write_titles

import gpt2kw
from gpt2kw.errors import UserError
from gpt2kw.text import encoding
from gpt2kw.text.encoding import EncodeOptions
from gpt2kw.text.files import read_chunks
from gpt2kw.text.format import iter_documents


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def encode_keywords(**options):
    """Encode with one worker where the test is not about workers: each loads spaCy."""
    return gpt2kw.encode_keywords(**({"workers": 1} | options))


def records(path):
    return [document.record for document in iter_documents(read_chunks(path))]


def encoded(path):
    return path.read_bytes(), path.with_name(f"{path.stem}.val.txt").read_bytes()


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    source = write_titles(tmp_path / "titles.csv", rounds=60)
    results = set()
    for workers in (1, 2, 4):
        output = tmp_path / f"{workers}.txt"
        encode_keywords(source=source, output=output, category_field="category", workers=workers)
        results.add(encoded(output))
    assert len(results) == 1


def test_another_seed_chooses_other_keywords(titles_csv, tmp_path):
    for seed in (0, 1):
        encode_keywords(
            source=titles_csv, output=tmp_path / f"{seed}.txt", seed=seed, validation_fraction=0
        )
    assert (tmp_path / "0.txt").read_bytes() != (tmp_path / "1.txt").read_bytes()


def test_every_title_comes_back_exactly(titles_csv, tmp_path):
    report = encode_keywords(source=titles_csv, output=tmp_path / "o.txt", validation_fraction=0)
    wanted = {f"{title} {n}" if n else title for n in range(6) for _, title in TITLES}
    assert {record.title for record in records(tmp_path / "o.txt")} == wanted
    assert report.records == len(wanted)
    assert report.training_documents == len(records(tmp_path / "o.txt"))
    assert report.validation_documents == 0


def test_a_record_has_up_to_repeat_different_documents_a_whole_pass_apart(titles_csv, tmp_path):
    encode_keywords(
        source=titles_csv,
        output=tmp_path / "o.txt",
        validation_fraction=0,
        repeat=3,
        max_keywords=2,
    )
    written = records(tmp_path / "o.txt")
    places = defaultdict(list)
    for place, record in enumerate(written):
        places[record.title].append(place)
    assert {len(found) for found in places.values()} == {3}
    assert len(set(written)) == len(written)
    assert min(b - a for found in places.values() for a, b in pairwise(found)) == 48
    counts = {len(record.keywords.split()) for record in written}
    assert counts == {0, 1, 2}


def test_no_text_stands_on_both_sides_of_the_split(tmp_path):
    (tmp_path / "t.csv").write_text(
        "category,title\n" + "".join(f"a,Cat number {n}\nb,cat  number {n}\n" for n in range(80))
    )
    encode_keywords(
        source=tmp_path / "t.csv",
        output=tmp_path / "o.txt",
        category_field="category",
        keywords_field="category",
        validation_fraction=0.3,
    )
    training, validation = (
        {" ".join(record.title.lower().split()) for record in records(tmp_path / name)}
        for name in ("o.txt", "o.val.txt")
    )
    assert training.isdisjoint(validation)
    assert len(training | validation) == 80
    assert 10 <= len(validation) <= 40


def test_given_keywords_are_used_and_spacy_is_not_loaded(tmp_path):
    (tmp_path / "t.csv").write_text('kw,title\n"New York; cats;Cats",A title\n,Another\n')
    encode_keywords(
        source=tmp_path / "t.csv",
        output=tmp_path / "o.txt",
        keywords_field="kw",
        keyword_sep=";",
        spacy_model="there_is_none",
        validation_fraction=0,
        repeat=20,
    )
    found = {(record.title, record.keywords) for record in records(tmp_path / "o.txt")}
    assert found == {
        ("A title", ""),
        ("A title", "New-York"),
        ("A title", "cats"),
        ("A title", "New-York cats"),
        ("A title", "cats New-York"),
        ("Another", ""),
    }


def test_several_sources_become_one_text_and_empty_cells_are_no_sections(tmp_path):
    (tmp_path / "a.csv").write_text("title,body\nOne,Text\nTwo,\n")
    (tmp_path / "b.jsonl").write_text('{"title": "Three", "body": null}\n')
    encode_keywords(
        source=(str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")),
        output=tmp_path / "o.txt",
        body_field="body",
        keywords_field="title",
        validation_fraction=0,
        repeat=1,
    )
    assert {(r.title, r.body, r.category) for r in records(tmp_path / "o.txt")} == {
        ("One", "Text", None),
        ("Two", None, None),
        ("Three", None, None),
    }


def test_unusable_rows_are_counted_with_their_lines(tmp_path):
    (tmp_path / "t.csv").write_text('title\nA cat\n"  "\nA dog\n\n""\n')
    report = encode_keywords(
        source=tmp_path / "t.csv", output=tmp_path / "o.txt", keywords_field="title"
    )
    assert report.records == 2
    assert report.problems == ["2 rows with a blank title, skipped (t.csv:3, t.csv:6)"]


def test_half_a_surrogate_pair_and_a_huge_title_are_handled_and_said(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"title": "broken \\ud83d"}\n{"title": "' + "many cats sleep " * 65536 + '"}\n'
    )
    report = encode_keywords(
        source=tmp_path / "t.jsonl", output=tmp_path / "o.txt", validation_fraction=0
    )
    assert {len(record.title) for record in records(tmp_path / "o.txt")} == {8, 2**20}
    assert len(report.problems) == 2


def test_a_killed_worker_costs_no_rows(tmp_path):
    source = write_titles(tmp_path / "titles.csv", rounds=150)
    encode_keywords(source=source, output=tmp_path / "undisturbed.txt", workers=2)
    killed = []

    def kill_a_worker():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "_Encoder.run" in " ".join(process.cmdline()):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    encode_keywords(source=source, output=tmp_path / "disturbed.txt", workers=2)
    thread.join()
    assert killed
    assert encoded(tmp_path / "disturbed.txt") == encoded(tmp_path / "undisturbed.txt")


def test_no_usable_row_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("title\n \n")
    with pytest.raises(UserError, match=r"no row with a title \(1 rows? .*t.csv:2.*\)"):
        encode_keywords(source=tmp_path / "t.csv", output=tmp_path / "o.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_table_without_the_column_is_told_before_workers_start(titles_csv, tmp_path, monkeypatch):
    from gpt2kw.text import encoding

    monkeypatch.delattr(encoding, "worker_pool")
    other = tmp_path / "other.csv"
    other.write_text("headline\nOne\n")
    with pytest.raises(UserError, match=r"other\.csv has no column 'title'"):
        encode_keywords(source=(str(titles_csv), str(other)), output=tmp_path / "o.txt")


def test_an_error_in_the_middle_leaves_the_old_output(titles_csv, tmp_path):
    output = tmp_path / "o.txt"
    output.write_text("old")
    with open(titles_csv, "a") as file:
        file.write('cats,"never closed\n')
    with pytest.raises(UserError, match="never closed"):
        encode_keywords(source=titles_csv, output=output)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.txt", "titles.csv"]


def test_a_spacy_model_that_fails_in_a_worker_is_one_clear_error(titles_csv, tmp_path):
    broken = tmp_path / "broken_model"
    broken.mkdir()
    with pytest.raises(UserError, match="^can't load the spaCy model") as error:
        encode_keywords(source=titles_csv, output=tmp_path / "o.txt", spacy_model=str(broken))
    assert "Traceback" not in str(error.value)
    assert "ray::" not in str(error.value)


def test_a_validation_text_that_no_longer_fits_is_moved_away_and_named(titles_csv, tmp_path):
    output = tmp_path / "o.txt"
    fields = {"source": titles_csv, "output": output, "keywords_field": "category"}
    encode_keywords(**fields, validation_fraction=0.5)
    earlier = (tmp_path / "o.val.txt").read_bytes()
    report = encode_keywords(**fields, validation_fraction=0)
    assert not (tmp_path / "o.val.txt").exists()
    assert (tmp_path / "o.val.txt.1").read_bytes() == earlier
    (note,) = report.problems
    assert f"{tmp_path / 'o.val.txt'} is now {tmp_path / 'o.val.txt.1'}" in note


def test_links_stay_and_what_they_point_to_is_written(titles_csv, tmp_path):
    for name in ("text", "text.val"):
        (tmp_path / f"far-{name}").mkdir()
        (tmp_path / f"{name}.txt").symlink_to(tmp_path / f"far-{name}" / "o.txt")
    encode_keywords(
        source=titles_csv,
        output=tmp_path / "text.txt",
        keywords_field="category",
        validation_fraction=0.5,
    )
    for name in ("text", "text.val"):
        assert (tmp_path / f"{name}.txt").is_symlink()
        (written,) = (tmp_path / f"far-{name}").iterdir()
        assert records(written)


def test_a_column_that_no_line_has_is_noticed_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_encoder", pytest.fail)
    (tmp_path / "a.jsonl").write_text('{"title": "Cats"}\n{"title": "Dogs", "kind": "x"}\n')
    with pytest.raises(UserError, match="no column 'knid', only 'kind', 'title'; did you mean"):
        encode_keywords(
            source=tmp_path / "a.jsonl", output=tmp_path / "o.txt", category_field="knid"
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repeat": 0}, "--repeat is 0; give 1 to 100"),
        ({"max_keywords": -1}, "--max-keywords is -1"),
        ({"validation_fraction": 1.0}, "--validation-fraction is 1.0"),
        ({"workers": -2}, "--workers is -2"),
        ({"keyword_gen": "body"}, "--keyword-gen is body without a body"),
        ({"source": ()}, "at least one file"),
    ],
)
def test_options_out_of_range_are_named_with_their_value(fields, message):
    with pytest.raises(UserError, match=message):
        EncodeOptions(**({"source": ("a.csv",), "output": "o.txt"} | fields))


def test_an_unreachable_cluster_is_an_error(titles_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="can't reach ray at 127.0.0.1:1: .*refused"):
        encode_keywords(source=titles_csv, output=tmp_path / "o.txt", address="127.0.0.1:1")


def test_a_source_is_never_written_over(titles_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in ("titles.csv", "./titles.csv", tmp_path / "titles.csv"):
        with pytest.raises(UserError, match="would be written over"):
            encode_keywords(source=titles_csv, output=output)
    (tmp_path / "p.val.txt").write_text("A cat\n")
    with pytest.raises(UserError, match="would be written over"):
        encode_keywords(source="p.val.txt", output="p.txt", validation_fraction=0)
    assert (tmp_path / "p.val.txt").exists()


def test_a_split_without_training_text_is_an_error(tmp_path):
    (tmp_path / "t.txt").write_text("A cat\n")
    with pytest.raises(UserError, match=r"--validation-fraction 0\.9999 leaves no training text"):
        encode_keywords(
            source=tmp_path / "t.txt", output=tmp_path / "o.txt", validation_fraction=0.9999
        )


def test_keywords_that_are_a_list_are_used_one_by_one(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"title": "A", "kw": ["new york", "cats, dogs"]}\n')
    for separator in (";", ",", " ", "-"):
        encode_keywords(
            source=[tmp_path / "t.jsonl"],
            output=tmp_path / "o.txt",
            keywords_field="kw",
            keyword_sep=separator,
            validation_fraction=0,
            repeat=20,
        )
        found = {word for r in records(tmp_path / "o.txt") for word in r.keywords.split()}
        assert found == {"new-york", "cats-dogs"}
