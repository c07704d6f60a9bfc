"""Training text as tokens on disk, and the batches that a run makes of them."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.text.format import Record, render
from gpt2kw.training.batches import BatchOrder, Place, _shuffle, choose_lengths
from gpt2kw.training.corpus import checksum, open_corpus


@pytest.fixture
def tokenizer(tiny_model):
    return Model.load(tiny_model).tokenizer


def corpus_of(text, tokenizer, cache, context=64):
    return open_corpus(text, checksum(text), tokenizer, context, cache)


@pytest.fixture
def corpus(training_text, tokenizer, tmp_path):
    return corpus_of(training_text, tokenizer, tmp_path / "cache")


def epoch(order, number=0):
    """All batches of an epoch."""
    places = itertools.takewhile(lambda pair: pair[0] == number, _with_place(order, Place(number)))
    return [batch for _, batch in places]


def _with_place(order, place):
    for batch, following in order.from_place(place):
        yield place.epoch, batch
        place = following


def documents(batches):
    """The ids of each document, without padding."""
    return sorted(
        tuple(ids[:length])
        for batch in batches
        for ids, length in zip(batch.ids, batch.lengths, strict=True)
        if length
    )


def test_a_corpus_holds_each_document_as_the_tokenizer_writes_it(corpus, tokenizer, training_text):
    from gpt2kw.text.tally import Tally
    from gpt2kw.training.corpus import read_records

    records = list(read_records(training_text, Tally()))
    assert len(corpus) == len(records) == 48
    for number, (record, ids) in enumerate(zip(records, tokenizer.encode(records), strict=True)):
        assert corpus.document(number).tolist() == ids
        without = tokenizer.decode(corpus.document(number, with_category=False)).record
        assert without == Record(None, record.keywords, record.title, record.body)
        title = ids.index(tokenizer.tag("title"))
        assert corpus.texts[number] == title


def test_a_text_is_tokenised_once(corpus, training_text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "encode", None)
    again = corpus_of(training_text, tokenizer, tmp_path / "cache")
    np.testing.assert_array_equal(again.tokens, corpus.tokens)
    assert again.about == corpus.about
    assert isinstance(again.tokens, np.memmap)


def test_another_text_or_context_is_tokenised_anew(corpus, training_text, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    assert len(corpus_of(training_text, tokenizer, cache, context=10).tokens) < len(corpus.tokens)
    more = tmp_path / "more.txt"
    more.write_text(training_text.read_text() + render(Record(title="one more")))
    assert len(corpus_of(more, tokenizer, cache)) == 49
    assert len(os.listdir(cache)) == 3


def test_documents_that_are_not_used_or_cut_are_counted(tokenizer, tmp_path):
    path = tmp_path / "t.txt"
    long = render(Record(title="word " * 100))
    path.write_text(f"{render(Record(title='a'))}\n{long}\n<|startoftext|>~@cut\n")
    for _ in ("tokenised", "from the cache"):
        found = corpus_of(path, tokenizer, tmp_path / "cache")
        assert found.lengths.tolist()[1] == 64
        assert found.notes == (
            "1 documents without an end mark, not used (document 3)",
            "1 documents cut to 64 tokens (document 2)",
        )


def test_a_missing_text_is_an_error(tmp_path):
    with pytest.raises(UserError, match="can't read .*nothing.txt: No such file"):
        checksum(tmp_path / "nothing.txt")


def test_an_epoch_has_each_document_once_and_no_two_epochs_are_alike(corpus):
    order = BatchOrder(corpus, 8, seed=3, pool=2)
    whole = sorted(tuple(corpus.document(number)) for number in range(len(corpus)))
    first, second = epoch(order, 0), epoch(order, 1)
    assert documents(first) == documents(second) == whole
    assert [batch.ids.tolist() for batch in first] != [batch.ids.tolist() for batch in second]


def test_a_place_is_enough_to_go_on(corpus):
    order = BatchOrder(corpus, 5, seed=1, category_dropout=0.5, pool=3)
    run = list(itertools.islice(order.from_place(Place()), 30))
    for start in (0, 7, 19):
        late = BatchOrder(corpus, 5, seed=1, category_dropout=0.5, pool=3)
        for (batch, place), (wanted, next_place) in zip(
            late.from_place(run[start][1]), run[start + 1 :], strict=False
        ):
            assert place == next_place
            np.testing.assert_array_equal(batch.ids, wanted.ids)


def test_a_share_of_the_documents_comes_without_its_category(corpus, tokenizer):
    order = BatchOrder(corpus, 8, seed=0, category_dropout=0.3)
    read = [
        tokenizer.decode(ids).record
        for number in range(20)
        for ids in documents(epoch(order, number))
    ]
    assert 0.25 < np.mean([record.category is None for record in read]) < 0.35
    assert all(record.title and record.keywords for record in read)


def test_little_is_padding(tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "sleeps", "fridge", "blanket", "the", "sea"]
    text = tmp_path / "t.txt"
    lengths = rng.poisson(8, 3000) + 1
    titles = (" ".join(rng.choice(words, length)) for length in lengths)
    text.write_text("\n".join(render(Record(None, "cat", title)) for title in titles))
    order = BatchOrder(corpus_of(text, tokenizer, tmp_path / "cache"), 32, seed=0)
    batches = epoch(order)
    assert sum(b.tokens for b in batches) > 0.95 * sum(b.ids.size for b in batches)
    assert len({batch.ids.shape for batch in batches}) <= 24
    sizes = [batch.ids.size for batch in batches]
    assert max(sizes) < 1.2 * min(sizes)


def test_the_loss_can_begin_behind_the_keywords(corpus, tokenizer):
    for dropout in (0.0, 0.9):
        order = BatchOrder(corpus, 8, seed=0, loss_on="text", category_dropout=dropout)
        for batch in epoch(order):
            for ids, length, start in zip(batch.ids, batch.lengths, batch.starts, strict=True):
                assert not length or ids[start - 1] == tokenizer.tag("title")


def test_parts_of_a_batch_have_all_its_documents(corpus):
    batch = next(BatchOrder(corpus, 8, seed=0).in_order(48))
    parts = batch.parts(3)
    assert documents(parts) == documents([batch])
    assert sum(part.counted for part in parts) == batch.counted


def least_padding(sizes, counts, most):
    """By trying all choices."""
    choices = (
        (*chosen, sizes[-1])
        for count in range(most)
        for chosen in itertools.combinations(sizes[:-1], count)
    )
    return min(_padding(sizes, counts, np.array(choice)) for choice in choices)


def _padding(sizes, counts, chosen):
    return int(((chosen[np.searchsorted(chosen, sizes)] - sizes) * counts).sum())


@given(
    st.dictionaries(st.integers(1, 40), st.integers(1, 9), min_size=1, max_size=7),
    st.integers(1, 4),
)
def test_lengths_are_chosen_for_the_least_padding(histogram, most):
    sizes = np.array(sorted(histogram))
    counts = np.array([histogram[size] for size in sizes])
    chosen = choose_lengths(sizes, counts, most)
    assert len(chosen) <= most
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert _padding(sizes, counts, chosen) == least_padding(sizes, counts, most)


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_a_shuffle_is_a_permutation(count, key):
    shuffled = _shuffle(np.arange(count, dtype=np.uint64), count, (key, 0))
    assert sorted(shuffled) == list(range(count))


def test_a_shuffle_leaves_no_order():
    shuffled = _shuffle(np.arange(5000, dtype=np.uint64), 5000, (0, 0))
    assert abs(np.corrcoef(np.arange(5000), shuffled)[0, 1]) < 0.05
    assert len(set(np.diff(shuffled))) > 2000
