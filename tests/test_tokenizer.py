"""The tokenizer: marks are one token each, and content never becomes one."""

import pytest
from conftest import TITLES
from hypothesis import given, settings
from test_format import records
from tokenizers import Tokenizer as FastTokenizer

from gpt2kw.errors import UserError
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.format import Document, Record, prompt

TOKENIZER = Tokenizer.train((Record(category, title, title) for category, title in TITLES), 400)


@settings(max_examples=500, deadline=None)
@given(records)
def test_every_record_comes_back_from_its_ids(record):
    (ids,) = TOKENIZER.encode([record])
    assert TOKENIZER.decode(ids) == Document(record)


@settings(max_examples=500, deadline=None)
@given(records)
def test_content_never_becomes_a_mark(record):
    (ids,) = TOKENIZER.encode([record])
    marks = [token for token in ids if token in TOKENIZER.mark_ids]
    sections = (record.category, record.keywords, record.title, record.body)
    assert len(marks) == 2 + sum(section is not None for section in sections)


def test_a_prompt_is_open_and_unfinished():
    (ids,) = TOKENIZER.encode([Record(keywords="cat", title="My")], finished=False)
    assert TOKENIZER.decode(ids) == Document(Record(keywords="cat", title="My"), finished=False)


def test_saving_and_loading_changes_no_id(tmp_path):
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    record = Record("~@cats", "<|endoftext|>", "Title \u00e9\U0001f408", "")
    assert loaded.had_marks
    assert list(loaded.encode([record])) == list(TOKENIZER.encode([record]))


def test_transformers_reads_it_and_finds_the_marks_of_a_prompt(tmp_path):
    from transformers import AutoTokenizer

    TOKENIZER.save(tmp_path)
    record = Record("cats", "cat", "The")
    (ids,) = TOKENIZER.encode([record], finished=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path)(prompt(record))
    # GPT-2 would add embeddings for token_type_ids.
    assert dict(theirs) == {"input_ids": ids, "attention_mask": [1] * len(ids)}


def test_a_tokenizer_that_frames_texts_with_its_own_marks_stops_doing_so(tmp_path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    TOKENIZER.save(tmp_path)
    framing = FastTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    framing.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", TOKENIZER.end)]
    )
    framing.save(str(tmp_path / "tokenizer.json"))
    Tokenizer.load(tmp_path).save(tmp_path)
    (ids,) = TOKENIZER.encode([Record(title="The")])
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("<|startoftext|>~@The<|endoftext|>")["input_ids"] == ids


def test_gpt2s_own_files_load_and_get_the_marks(tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([title for _, title in TITLES], 350, special_tokens=["<|endoftext|>"])
    bpe.save_model(str(tmp_path))
    loaded = Tokenizer.load(tmp_path)
    assert not loaded.had_marks
    assert loaded.end == bpe.token_to_id("<|endoftext|>")
    assert loaded.size == bpe.get_vocab_size() + 5
    assert loaded.padded_size % 64 == 0
    record = Record("a", "b", "The cat")
    assert loaded.decode(next(loaded.encode([record]))) == Document(record)


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="can't read the tokenizer"):
        Tokenizer.load(tmp_path)
