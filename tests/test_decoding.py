"""From documents back to titles, in every form."""

import csv
import json
import os

import pytest

from gpt2kw import decode_file, decode_texts
from gpt2kw.errors import UserError
from gpt2kw.text.format import Record, prompt, render

RECORDS = [
    Record("cats", "cat wall", "Why, cat?\nWhy", "Body,\rtoo"),
    Record(None, "", 'A "dog"', None),
]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.txt"
    text = "".join(render(record) + "\n" for record in RECORDS)
    path.write_text(text + prompt(Record(title="cut o")) + "\n", "utf-8", newline="")
    return path


def test_texts_give_their_sections_in_the_order_asked_for():
    found = list(decode_texts([render(record) for record in RECORDS], ["body", "title"]))
    assert found == [
        {"body": "Body,\rtoo", "title": "Why, cat?\nWhy"},
        {"body": None, "title": 'A "dog"'},
    ]
    assert list(found[0]) == ["body", "title"]


def test_one_text_may_hold_several_documents():
    text = "\n".join(render(record) for record in RECORDS)
    assert [found["title"] for found in decode_texts(text)] == ["Why, cat?\nWhy", 'A "dog"']


def test_plain_text_parts_documents_by_a_line(documents, tmp_path):
    report = decode_file(file=documents, output=tmp_path / "o", sections=("title", "body"))
    line = "=" * 20
    assert (tmp_path / "o").read_bytes().decode() == (
        f'Why, cat?\nWhy\nBody,\rtoo\n{line}\nA "dog"\n{line}\ncut o\n{line}\n'
    )
    assert (report.documents, report.unfinished, report.strays) == (3, 1, 0)


def test_the_parting_line_can_be_chosen(documents, tmp_path):
    decode_file(file=documents, output=tmp_path / "o", sections="keywords", separator="--")
    assert (tmp_path / "o").read_text() == "cat wall\n--\n\n--\n--\n"


def test_json_lines_and_csv_read_back_exactly(documents, tmp_path):
    sections = ("title", "category", "keywords", "body")
    decode_file(file=documents, output=tmp_path / "j", sections=sections, format="jsonl")
    decode_file(file=documents, output=tmp_path / "c", sections=sections, format="csv")
    lines = (tmp_path / "j").read_text("utf-8").splitlines()
    assert [Record(**json.loads(line)) for line in lines][:2] == RECORDS
    with open(tmp_path / "c", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["title"] == RECORDS[0].title
    assert list(rows[0]) == list(sections)


def test_text_outside_sections_is_counted_and_not_written(tmp_path):
    (tmp_path / "d").write_text(f"====\n{render(RECORDS[1])}\n====\n")
    report = decode_file(file=tmp_path / "d", output=tmp_path / "o")
    assert (report.documents, report.unfinished, report.strays) == (1, 0, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sections": ("titel",)}, "'titel'; did you mean 'title'"),
        ({"sections": ("title", "title")}, "each section once"),
        ({"sections": ()}, "some of category"),
        ({"sections": "titel"}, "'titel'; did you mean 'title'"),
        ({"format": "json"}, "--format is 'json'; give one of text, jsonl, csv"),
        ({"file": "missing.txt"}, "can't read missing.txt"),
    ],
)
def test_unusable_options_are_errors(documents, fields, message):
    with pytest.raises(UserError, match=message):
        decode_file(**({"file": documents} | fields))


@pytest.mark.parametrize("content", [b"", b"no documents here", b"\xff\xfe\x00"])
def test_a_file_without_documents_is_an_error_and_writes_nothing(tmp_path, content):
    (tmp_path / "d").write_bytes(content)
    with pytest.raises(UserError):
        decode_file(file=tmp_path / "d", output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_what_is_no_plain_file_is_not_replaced(documents, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a device or a pipe; name a file"):
        decode_file(file=documents, output=str(tmp_path / "pipe"))
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_is_never_decoded_over_itself(documents):
    with pytest.raises(UserError, match="would be written over"):
        decode_file(file=documents, output=documents)
