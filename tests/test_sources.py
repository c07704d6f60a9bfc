"""Reading tables: every format, and every way in which a table is broken."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2kw.errors import UserError
from gpt2kw.text.sources import check_source, read_rows
from gpt2kw.text.tally import Tally

ROWS = [{"title": "One, two", "n": "1"}, {"title": 'Say "hi"\nthere', "n": "2"}]


def titles(path, columns=("title",), header=True, tally=None):
    tally = tally or Tally()
    return [row["title"] for _, row in read_rows(str(path), list(columns), header, tally)]


def write_csv(path, delimiter=","):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["title", "n"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def test_every_format_gives_the_same_rows(tmp_path):
    write_csv(tmp_path / "a.csv")
    write_csv(tmp_path / "a.tsv", "\t")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    expected = [row["title"] for row in ROWS]
    paths = sorted(path for path in tmp_path.iterdir())
    assert len(paths) == 7
    for path in paths:
        assert titles(path) == expected, path.name


def test_plain_lines_and_a_csv_without_header_are_single_columns(tmp_path):
    (tmp_path / "a.txt").write_text("Cats, asleep\nDogs\n")
    (tmp_path / "a.csv").write_text('"Cats, asleep"\nDogs\na,b\n')
    tally = Tally()
    assert titles(tmp_path / "a.txt") == ["Cats, asleep", "Dogs"]
    assert titles(tmp_path / "a.csv", header=False, tally=tally) == ["Cats, asleep", "Dogs"]
    assert tally.lines() == ["1 rows with several fields where one was expected, skipped (a.csv:3)"]


def test_bom_latin_1_and_nul_bytes_are_read_and_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbftitle\n" + "Café\n".encode() + "Café\n".encode("latin-1") + b"a\0b\n"
    )
    tally = Tally()
    assert titles(path, tally=tally) == ["Café", "Café", "ab"]
    assert tally.lines() == [
        "1 lines that are not UTF-8, read as Latin-1 (a.csv:3)",
        "1 lines with NUL bytes, which were removed (a.csv:4)",
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_files_of_spreadsheets_are_read(tmp_path, encoding):
    (tmp_path / "a.csv").write_text("title,n\nÉté,1\n", encoding=encoding)
    assert titles(tmp_path / "a.csv") == ["Été"]


def test_ragged_and_torn_rows_are_skipped_and_counted_with_their_lines(tmp_path):
    content = 'title,n\na,1\nshort\nlong,1,2\n"torn"x,1\nb\rc,1\nb,2\n'
    (tmp_path / "a.csv").write_text(content, newline="")
    tally = Tally()
    assert titles(tmp_path / "a.csv", tally=tally) == ["a", "b"]
    assert tally.lines() == [
        "1 rows with fewer fields than the header, skipped (a.csv:3)",
        "1 rows with more fields than the header, skipped (a.csv:4)",
        "1 lines of rows with text behind a closing quote, skipped (a.csv:5)",
        "1 rows with a carriage return that is no line's end, skipped (a.csv:6)",
    ]


def test_a_field_of_a_megabyte_is_read_whole(tmp_path):
    (tmp_path / "a.csv").write_text(f"title\n{'x' * 2**20}\n")
    assert titles(tmp_path / "a.csv") == ["x" * 2**20]


def test_broken_json_lines_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"title": "a"}\n{oops\n[1]\n{"title": null}\n{"title": 7}\n')
    tally = Tally()
    assert titles(tmp_path / "a.jsonl", tally=tally) == ["a", None, "7"]
    assert tally.counts.total() == 2


def test_a_list_in_json_stays_one(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"title": ["a", "b c"]}\n')
    assert titles(tmp_path / "a.jsonl") == [["a", "b c"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "Title,n\nx,1\n", r"no column 'title', only 'Title', 'n'; did you mean 'Title'"),
        ("a.csv", "title,title\na,b\n", "2 columns named 'title'"),
        ("a.csv", 'title\n"never closed\n', r"a\.csv:2: a quote that opens there is never closed"),
        ("a.csv", "", "is empty"),
        ("a.csv", "\n\n", "has no header row; give one"),
        ("a.csv", "title\rone\rtwo\r", r"has no header row \(1 rows with a carriage return that"),
        ("a.parquet.gz", "x", r"is Parquet in gzip, which can't be read; gunzip .*a\.parquet\.gz"),
        ("a.jsonl", '{"titel": "a"}\n', "did you mean 'titel'"),
        ("a.parquet", "nonsense", "not a Parquet file"),
        ("a.csv.gz", "nonsense", "not a whole gzip file"),
        ("a.doc", "x", "unknown ending"),
    ],
)
def test_unusable_files_are_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, newline="")
    with pytest.raises(UserError, match=message) as error:
        titles(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_cut_off_gzip_file_is_an_error(tmp_path):
    whole = gzip.compress(b"title\n" + b"".join(b"%d cats\n" % n for n in range(9999)))
    (tmp_path / "a.csv.gz").write_bytes(whole[:-500])
    with pytest.raises(UserError, match="not a whole gzip file"):
        titles(tmp_path / "a.csv.gz")


def test_a_missing_file_suggests_its_neighbour_and_a_folder_is_refused(tmp_path):
    (tmp_path / "titles.csv").write_text("title\na\n")
    with pytest.raises(UserError, match=r"no file .*did you mean 'titles\.csv'"):
        check_source(str(tmp_path / "tiltes.csv"))
    with pytest.raises(UserError, match="is a folder"):
        check_source(str(tmp_path))


def test_rows_are_read_as_they_are_needed(tmp_path):
    (tmp_path / "a.csv").write_text("title\na\nb\n")
    rows = read_rows(str(tmp_path / "a.csv"), ["title"], True, Tally())
    assert next(rows) == ("a.csv:2", {"title": "a"})


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_a_single_column_has_no_second_one(tmp_path, name):
    (tmp_path / name).write_text("Cats\n")
    with pytest.raises(UserError, match="no column 'kind', only 'title'"):
        titles(tmp_path / name, ("title", "kind"), header=False)


def test_lines_that_a_stray_quote_swallows_are_all_counted(tmp_path):
    (tmp_path / "a.csv").write_text('title\n"open\nb\nc\n"d"\ne\n')
    tally = Tally()
    assert titles(tmp_path / "a.csv", tally=tally) == ["e"]
    assert tally.counts.total() == 4
