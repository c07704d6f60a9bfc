"""Many at once: rows to texts in order, the same ones however the work is done."""

import csv
import gzip
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import run_command

from gpt2kw import Generator
from gpt2kw.errors import UserError
from gpt2kw.generation import bulk
from gpt2kw.generation.bulk import generate_many
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import About, Model

ROWS = [
    {"keywords": "cat", "category": "cats", "nsamples": "7"},
    {"keywords": "", "category": "", "nsamples": ""},
    {"keywords": "dog, fridge", "category": "", "nsamples": "1"},
    {"keywords": "", "category": "books", "nsamples": "12"},
    {"keywords": "sea", "category": "books", "nsamples": "2.0"},
]
COUNTS = [7, 3, 1, 12, 2]


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def generator(tiny_model):
    return Generator.load(model=str(tiny_model))


@pytest.fixture
def options(here, tiny_model, generator, monkeypatch):
    """Options for `ROWS`, and a model whose graph is made only once for all tests."""
    monkeypatch.setattr(Generator, "of", lambda *_: generator)
    write_csv(here / "p.csv", ROWS)
    return GenerateOptions(
        prompts="p.csv", model=str(tiny_model), seed=1, nsamples=3, max_tokens=12, output="o.jsonl"
    )


@pytest.fixture
def whole(options, here):
    """What an undisturbed job writes."""
    generate_many(options, output="whole")
    return (here / "whole").read_bytes()


def stop_after(count, monkeypatch):
    """Let the next job end like one that is stopped, after so many texts."""

    def lines(text, options, before):
        if before == count:
            raise KeyboardInterrupt
        return written(text, options, before)

    written = bulk.lines
    monkeypatch.setattr(bulk, "_MARK_EVERY", 4)
    monkeypatch.setattr(bulk, "lines", lines)


def interrupt(options, count, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(count, patch)
        with pytest.raises(KeyboardInterrupt):
            generate_many(options)


def rows_of(content):
    return [json.loads(line)["row"] for line in content.splitlines()]


def test_every_row_has_its_texts_in_order(whole):
    wanted = [row for row, count in enumerate(COUNTS, start=1) for _ in range(count)]
    assert rows_of(whole) == wanted
    found = [json.loads(line) for line in whole.splitlines()]
    assert {text["keywords"] for text in found if text["row"] == 3} == {"dog fridge"}
    assert {text["category"] for text in found if text["row"] == 4} == {"books"}
    assert {text["category"] for text in found if text["row"] == 2} == {None}
    assert [text["missing"] for text in found] == [[]] * 25


@pytest.mark.parametrize("batch_size", [1, 7])
def test_any_batch_size_gives_the_same_texts(options, whole, here, batch_size):
    generate_many(options, batch_size=batch_size)
    assert (here / "o.jsonl").read_bytes() == whole


def test_a_text_depends_on_its_row_and_not_on_the_rows_before(options, whole, here):
    others = [ROWS[1] | {"keywords": "wall"}, ROWS[0] | {"nsamples": "0"}]
    write_csv(here / "p.csv", [*others, *ROWS[2:]])
    generate_many(options)
    there = [line for line in whole.splitlines() if json.loads(line)["row"] > 2]
    assert (here / "o.jsonl").read_bytes().splitlines()[3:] == there


@pytest.mark.parametrize(("stop", "cut"), [(5, 0), (9, 1), (14, 700), (24, 0)])
def test_a_stopped_job_goes_on_to_the_same_bytes(options, whole, here, monkeypatch, stop, cut):
    interrupt(options, stop, monkeypatch)
    assert not (here / "o.jsonl").exists()
    part = here / "o.jsonl.part"
    content = part.read_bytes()
    assert content == b"".join(whole.splitlines(keepends=True)[:stop])
    part.write_bytes(content[: len(content) - cut])
    report = generate_many(options, batch_size=5)
    assert (here / "o.jsonl").read_bytes() == whole
    assert (report.tried, report.texts) == (25, 25)
    assert sorted(path.name for path in here.iterdir()) == ["o.jsonl", "p.csv", "whole"]


def test_without_a_seed_one_is_drawn_and_kept(options, here, monkeypatch):
    drawn = replace(options, seed=None)
    interrupt(drawn, 9, monkeypatch)
    seed = json.loads((here / "o.jsonl.part.state").read_text().splitlines()[0])["--seed"]
    generate_many(drawn)
    generate_many(options, seed=seed, output="again")
    assert (here / "again").read_bytes() == (here / "o.jsonl").read_bytes()
    generate_many(drawn)
    assert (here / "again").read_bytes() != (here / "o.jsonl").read_bytes()


@pytest.mark.parametrize("prefix", [None, "Why"])
def test_unique_holds_over_a_stop(options, here, monkeypatch, prefix):
    # Two tokens, so that most titles come twice.
    write_csv(here / "p.csv", [{"keywords": "", "category": "cats", "nsamples": 40}] * 2)
    few = replace(options, unique=True, max_tokens=2, top_k=7, prefix=prefix, include_prefix=False)
    undisturbed = generate_many(few, output="whole")
    interrupt(few, 12, monkeypatch)
    report = generate_many(few)
    assert (here / "o.jsonl").read_bytes() == (here / "whole").read_bytes()
    written = (here / "o.jsonl").read_bytes().splitlines()
    titles = [json.loads(line)["title"] for line in written]
    assert len({title.casefold().strip() for title in titles}) == len(titles) == report.texts
    assert report.left_out == undisturbed.left_out == {"not unique": 80 - len(titles)}
    assert report.left_out["not unique"] > 0


@pytest.mark.parametrize("unique", [False, True])
def test_beams_go_on_at_a_row(options, here, monkeypatch, unique):
    write_csv(here / "p.csv", [{"keywords": word, "nsamples": "3"} for word in "abcde"])
    searching = replace(options, beams=3, unique=unique, max_tokens=8)
    generate_many(searching, output="whole")
    interrupt(searching, 11, monkeypatch)
    generate_many(searching)
    assert (here / "o.jsonl").read_bytes() == (here / "whole").read_bytes()


def test_groups_of_beams_that_find_the_same_write_it_once(options, here):
    write_csv(here / "p.csv", [{"keywords": "a", "nsamples": "2"}])
    alike = replace(options, beams=4, beam_groups=2, diversity_penalty=0.0, max_tokens=8)
    generate_many(alike)
    titles = [
        json.loads(line)["title"] for line in (here / "o.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(set(titles)) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0.9}, r"--temperature 0.7 \(now 0.9\)"),
        ({"seed": 2}, r"--seed 1 \(now 2\)"),
        ({"format": "csv"}, r"--format jsonl \(now csv\)"),
        ({"nsamples": 4, "top_k": 5}, r"--nsamples 3 \(now 4\), --top-k 40 \(now 5\)"),
        ({"prompts": "q.csv"}, "the checksum of --prompts"),
        ({"model": "other"}, "the model's checksum"),
    ],
)
def test_what_was_begun_otherwise_is_not_gone_on_with(
    options, here, monkeypatch, tiny_model, changed, message
):
    interrupt(options, 9, monkeypatch)
    before = (here / "o.jsonl.part").read_bytes()
    write_csv(here / "q.csv", ROWS[::-1])
    model = Model.load(tiny_model)
    model.weights["transformer.ln_f.bias"][0] += 1
    (here / "other").mkdir()
    model.save(here / "other")
    with pytest.raises(UserError, match=f"begun with {message}.*; .*remove o.jsonl.part$"):
        generate_many(options, **changed)
    assert (here / "o.jsonl.part").read_bytes() == before


def test_rows_that_cannot_be_used_are_said_and_stop_nothing(options, here):
    (here / "p.csv").write_text(
        "keywords,prefix,nsamples\n"
        "cat,,2\n"
        "!!!,,1\n"
        "a b c d e f g,,1\n"
        "sea,,0\n"
        f"sea,{'word ' * 70},1\n"
        "sea,,many\n"
        "sea\n"
        "sea wall,,9999999999999\n"
        "one two three four five six,,1\n"
        "wall,,\n"
    )
    report = generate_many(options, nsamples=1)
    assert rows_of((here / "o.jsonl").read_bytes()) == [1, 1, 9]
    assert (report.tried, report.texts) == (3, 3)
    said = "\n".join(report.problems)
    assert "only punctuation (p.csv:3)" in said
    assert "give fewer, or --keyword-mode prefer (p.csv:4)" in said
    assert "3 rows skipped, such as: --nsamples is '0'" in said
    assert "(p.csv:5, p.csv:7, p.csv:9)" in said
    assert "the model sees 64: give fewer or shorter ones (p.csv:6)" in said
    assert "fewer fields than the header, skipped (p.csv:8)" in said
    assert "--max-tokens is 12; " in said
    assert "(p.csv:10)" in said
    assert len(report.problems) == 6


def test_categories_that_the_model_does_not_know_are_said_once(options, here, monkeypatch):
    model = Model.load(Path(options.model))
    model.about = About(("cats", "books"), ("category", "keywords", "title"))
    monkeypatch.setattr(bulk, "load_model", lambda *_: (model, here / "titles"))
    write_csv(options.prompts, [{"category": kind} for kind in ("cats", "cat", "x", "cat")])
    (said,) = generate_many(options, nsamples=1).problems
    assert said == (
        "3 rows in doubt, such as: the category 'cat' was not in the training text; "
        "did you mean 'cats'? (p.csv:3, p.csv:4, p.csv:5)"
    )


def test_a_table_without_a_row_that_can_be_used_is_an_error_and_leaves_nothing(options, here):
    for text, message in [
        ("keywords,nsamples\nsea,0\n", r"no row of p.csv can be used: 1 rows .*\(p.csv:2\)"),
        ("keywords\n", "no row of p.csv can be used: it has none"),
    ]:
        (here / "p.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            generate_many(options)
    assert [path.name for path in here.iterdir()] == ["p.csv"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("keyword,category", "has a column 'keyword' and none 'keywords'"),
        ("Keywords", "has a column 'Keywords' and none 'keywords'"),
        ("keywords,n_samples", "has a column 'n_samples' and none 'nsamples'"),
        ("title,nsamples", "no column keywords, category, prefix, only 'title', 'nsamples'"),
        ("keywords,keywords", "2 columns named 'keywords'"),
    ],
)
def test_columns_that_nobody_would_read_are_refused(options, here, header, message):
    (here / "p.csv").write_text(f"{header}\ncat,cats\n")
    with pytest.raises(UserError, match=message):
        generate_many(options)


def test_tables_of_any_kind_give_the_same_texts(options, whole, here):
    rows = [{name: cell or None for name, cell in row.items()} for row in ROWS]
    table = write_csv(here / "p.csv", ROWS).read_text()
    (here / "p.csv.gz").write_bytes(gzip.compress(("\ufeff" + table).encode()))
    lines = table.splitlines()
    (here / "p.tsv").write_text("\n".join("\t".join(row) for row in csv.reader(lines)))
    as_lists = [
        {**row, "keywords": (row["keywords"] or "").split(", "), "nsamples": count}
        for row, count in zip(rows, COUNTS, strict=True)
    ]
    (here / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in as_lists))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), here / "p.parquet")
    for name in ("p.csv.gz", "p.tsv", "p.jsonl", "p.parquet"):
        generate_many(options, prompts=name)
        assert (here / "o.jsonl").read_bytes() == whole, name


def test_plain_text_has_keywords_in_each_line(options, here):
    (here / "p.txt").write_text("cat wall\n\nnew-york,sea\n")
    generate_many(options, prompts="p.txt", nsamples=1)
    found = (here / "o.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["keywords"] for line in found] == ["cat wall", "", "new-york sea"]


def test_csv_has_a_header_and_a_row_for_each_text(options, here, monkeypatch):
    as_csv = replace(options, format="csv", keyword_mode="plain", sections=("title", "body"))
    generate_many(as_csv, output="whole")
    with open("whole", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["row", "keywords", "category", "title", "body", "finished", "missing"]
    assert [int(row["row"]) for row in found] == rows_of_counts()
    assert {row["finished"] for row in found} <= {"true", "false"}
    interrupt(as_csv, 9, monkeypatch)
    generate_many(as_csv)
    assert (here / "o.jsonl").read_bytes() == (here / "whole").read_bytes()


def rows_of_counts():
    return [row for row, count in enumerate(COUNTS, start=1) for _ in range(count)]


def test_keywords_that_are_missing_are_named(options, here):
    # Preferred only, and with no room for them.
    generate_many(options, keyword_mode="prefer", max_tokens=1, candidates=1, format="csv")
    with open("o.jsonl", newline="") as file:
        third = next(row for row in csv.DictReader(file) if row["row"] == "3")
    assert third["missing"] in ("dog fridge", "dog", "fridge")


def test_keywords_that_plain_texts_lack_are_named(options, here):
    generate_many(options, keyword_mode="plain", max_tokens=1)
    found = [json.loads(line) for line in (here / "o.jsonl").read_bytes().splitlines()]
    third = next(text for text in found if text["row"] == 3)
    assert third["missing"] == ["dog", "fridge"]


def test_text_goes_to_standard_output_with_lines_between(options, capsys):
    generate_many(options, output=None, format="text", sample_delim="--")
    printed = capsys.readouterr().out
    assert printed.count("\n--\n") == 24
    assert not printed.startswith("--")
    assert printed.endswith("\n")


def test_options_that_do_not_go_together_are_refused():
    for fields, message in [
        ({"prompts": "p.csv", "prompt": "x"}, "--prompt 'x' comes with --prompts p.csv"),
        ({"address": "auto"}, "--address is 'auto'; give --prompts with it"),
        ({"prompts": "p.csv", "workers": 2}, "--workers is 2; give --address"),
        ({"prompts": "p.csv", "address": "auto", "unique": True}, "do not go together"),
        ({"prompts": "p.csv", "address": "auto", "backend": "ctranslate2"}, "tensorflow with"),
    ]:
        with pytest.raises(UserError, match=message):
            GenerateOptions(**fields)


def test_a_killed_process_costs_no_text(options, here):
    write_csv(here / "p.csv", [{"keywords": "cat", "nsamples": 2}] * 400)
    plain = replace(options, keyword_mode="plain", max_tokens=6)
    command = [sys.executable, "-m", "gpt2kw.generate", "--prompts", "p.csv", "-o", "o.jsonl"]
    command += ["--model", options.model, "--seed", "1", "--keyword-mode", "plain"]
    command += ["--max-tokens", "6", "--nsamples", "3", "--batch-size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = here / "o.jsonl.part.state"
    deadline = time.monotonic() + 120
    while not (state.exists() and state.read_bytes().count(b"\n") > 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert 64 <= (here / "o.jsonl.part").read_bytes().count(b"\n") < 800
    generate_many(plain)
    generate_many(plain, output="whole")
    assert (here / "o.jsonl").read_bytes() == (here / "whole").read_bytes()
    assert rows_of((here / "whole").read_bytes()) == [r for r in range(1, 401) for _ in "ab"]


def test_two_workers_of_a_cluster_go_on_to_the_same_bytes(options, whole, here, monkeypatch):
    interrupt(options, 9, monkeypatch)
    # Small, so that both have some of each row.
    result = run_command(
        "generate", "--prompts", "p.csv", "-o", "o.jsonl", "--model", options.model,
        "--max-tokens", 12, "--nsamples", 3, "--batch-size", 1, "--address", "local",
        "--workers", 2, cwd=here,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    said = result.stderr.splitlines()
    assert said[0] == "going on behind the 8 texts of o.jsonl.part"
    assert said[-1] == "25 texts in o.jsonl"
    assert len(said) == 3, said
    assert (here / "o.jsonl").read_bytes() == whole
