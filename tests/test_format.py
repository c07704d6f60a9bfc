"""The format: lossless for any text, and the ancestors' bytes for ordinary text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kw.text.format import (
    END,
    START,
    Document,
    Record,
    from_pieces,
    iter_documents,
    parse,
    prompt,
    render,
    to_pieces,
)

SPECIAL = ["~", "~~", "`", "^", "@", "}", "<", "|", "startoftext|>", "endoftext|>", START, END]
SPECIAL += [
    "<~|endoftext|>",
    "<~~|startoftext|>",
    "~@",
    "~~}",
    "<|",
    "\n",
    "\r\n",
    "\r",
    " ",
    "word",
]
SPECIAL += ["\u202eعربي", "\U0001f408\u200d\U0001f4bb", "\0", "\ufeff"]
texts = st.one_of(st.lists(st.sampled_from(SPECIAL), max_size=9).map("".join), st.text(max_size=9))
sections = st.one_of(st.none(), texts)
records = st.builds(Record, sections, sections, sections, sections)


@settings(max_examples=1500, deadline=None)
@given(records)
def test_parse_inverts_render_for_any_text(record):
    assert parse(render(record)) == Document(record, finished=True)


@settings(max_examples=500, deadline=None)
@given(records)
def test_a_prompt_parses_as_the_unfinished_record(record):
    assert parse(prompt(record)) == Document(record, finished=False)


@settings(max_examples=500, deadline=None)
@given(records)
def test_pieces_carry_every_record(record):
    assert from_pieces(to_pieces(record)) == Document(record)


@settings(max_examples=500, deadline=None)
@given(st.lists(records, max_size=5), st.integers(1, 40))
def test_documents_are_found_in_chunks_of_any_size(some, size):
    text = "".join(render(record) + "\n" for record in some)
    chunks = (text[place : place + size] for place in range(0, len(text), size))
    assert list(iter_documents(chunks)) == [Document(record) for record in some]


@settings(max_examples=500, deadline=None)
@given(records)
def test_marks_stand_only_where_the_format_puts_them(record):
    text = render(record)
    assert text.startswith(START)
    assert text.endswith(END)
    assert text.count(START) == 1
    assert text.count(END) == 1


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            Record("cats", "sleep keyboard", "The cat ~ asleep", "Why? @home {x}"),
            "<|startoftext|>~`cats~^sleep keyboard~@The cat ~ asleep~}Why? @home {x}<|endoftext|>",
        ),
        (Record(title="T"), "<|startoftext|>~@T<|endoftext|>"),
        (Record(keywords="", title="T"), "<|startoftext|>~^~@T<|endoftext|>"),
        (Record(title="a~@b"), "<|startoftext|>~@a~~@b<|endoftext|>"),
        (Record(title="a~", body="b"), "<|startoftext|>~@a~~~}b<|endoftext|>"),
        (Record(title="a~"), "<|startoftext|>~@a~<|endoftext|>"),
        (Record(title=END), "<|startoftext|>~@<~|endoftext|><|endoftext|>"),
    ],
)
def test_documents_have_these_bytes(record, text):
    assert render(record) == text


def test_a_cut_off_generation_keeps_its_sections_and_is_unfinished():
    document = parse("<|startoftext|>~`cats~^a b~@The ca")
    assert document == Document(Record("cats", "a b", "The ca"), finished=False)


def test_a_tag_out_of_order_is_text():
    assert parse("~@one~@two~`three" + END).record == Record(title="one~@two~`three")


def test_text_before_the_first_section_is_kept_as_stray():
    assert parse(f"{START}plain{END}") == Document(Record(), stray="plain")


def test_a_document_that_another_cuts_short_is_unfinished():
    text = f"{START}~@one\n{START}~@two{END}\n junk \n{START}~@three"
    assert list(iter_documents([text])) == [
        Document(Record(title="one"), finished=False),
        Document(Record(title="two")),
        Document(Record(), finished=False, stray="junk"),
        Document(Record(title="three"), finished=False),
    ]


def test_documents_come_while_the_text_is_still_being_read():
    def chunks():
        yield f"{START}~@one{END}\n{START}~@tw"
        raise AssertionError("read too far")

    assert next(iter_documents(chunks())).record.title == "one"


def test_reading_holds_one_document_and_not_the_text():
    import tracemalloc

    document = f"{START}~@{'x' * 1000}{END}\n"
    tracemalloc.start()
    count = sum(1 for _ in iter_documents(document * 50 for _ in range(200)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 2_000_000


def test_long_runs_of_tildes_take_no_longer_than_other_text():
    record = Record(title="~" * 200_000 + "x", body="~" * 200_000)
    assert parse(render(record)) == Document(record)
