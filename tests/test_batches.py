"""Training text as tokens on disk, and the batches that a run makes of them."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kw.errors import UserError
from gpt2kw.model.folder import Model
from gpt2kw.text.format import Record, render
from gpt2kw.training.batches import BatchOrder, Place, Shape, _shuffle, choose_shapes, pack
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


def in_rows(batch):
    """The ids of each document with the places of those whose loss counts, row by row."""
    for ids, numbers, weights in zip(batch.ids, batch.documents, batch.loss_weights, strict=True):
        for number in range(1, numbers.max() + 1):
            own = numbers == number
            yield tuple(ids[own]), np.flatnonzero(weights[own]).tolist()


def documents(batches):
    """The ids of each document."""
    return sorted(ids for batch in batches for ids, _ in in_rows(batch))


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
    monkeypatch.setattr(type(tokenizer), "encode_pieces", None)
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


@pytest.fixture(scope="module")
def order_of_many(tiny_model, tmp_path_factory):
    """Batches of 3,000 titles of many lengths."""
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "sleeps", "fridge", "blanket", "the", "sea"]
    folder = tmp_path_factory.mktemp("many")
    lengths = rng.lognormal(2, 0.6, 3000).astype(int) + 1
    titles = (" ".join(rng.choice(words, length)) for length in lengths)
    text = "\n".join(render(Record(None, "cat", title)) for title in titles)
    (folder / "t.txt").write_text(text)
    tokenizer = Model.load(tiny_model).tokenizer
    return BatchOrder(corpus_of(folder / "t.txt", tokenizer, folder / "cache"), 32, seed=0)


def test_little_is_padding_and_few_shapes_arise(order_of_many):
    batches = epoch(order_of_many)
    assert sum(b.tokens for b in batches) > 0.97 * sum(b.ids.size for b in batches)
    assert len({batch.ids.shape for batch in batches}) <= 2
    sizes = [batch.ids.size for batch in batches]
    assert max(sizes) < 1.2 * min(sizes)


def test_documents_of_a_batch_are_of_mixed_lengths(order_of_many):
    batches = epoch(order_of_many)
    lengths = [[len(ids) for ids, _ in in_rows(batch)] for batch in batches]
    within = np.mean([np.std(found) for found in lengths])
    assert within > 0.85 * np.std(np.concatenate(lengths))


def test_documents_stand_one_behind_the_other_and_padding_behind_them(order_of_many):
    for batch in epoch(order_of_many):
        for ids, numbers, weights in zip(
            batch.ids, batch.documents, batch.loss_weights, strict=True
        ):
            length = np.count_nonzero(numbers)
            assert set(np.diff(numbers[:length])) <= {0, 1}
            assert not numbers[length:].any()
            assert not ids[length:].any()
            firsts = np.flatnonzero(np.diff(numbers, prepend=0))
            wanted = numbers > 0
            wanted[firsts] = False
            np.testing.assert_array_equal(weights, wanted)


def test_the_loss_can_begin_behind_the_keywords(corpus, tokenizer):
    for dropout in (0.0, 0.9):
        order = BatchOrder(corpus, 8, seed=0, loss_on="text", category_dropout=dropout)
        for batch in epoch(order):
            for ids, targets in in_rows(batch):
                title = ids.index(tokenizer.tag("title"))
                assert targets == list(range(title + 1, len(ids)))


@pytest.fixture
def corpus_with_forms(tokenizer, tmp_path):
    """Texts that have their keywords as they are, inflected, twice, in the body, or not at all."""
    records = [
        Record("pets", "cat red-hat", "Cats and a cat in a red hat"),
        Record("pets", "sleep dog", "Who slept?", "A dog and a cat"),
        Record(None, "", "a cat without keywords"),
        Record("pets", "sea", "a cat"),
    ]
    text = tmp_path / "forms.txt"
    text.write_text("\n".join(map(render, records)))
    return corpus_of(text, tokenizer, tmp_path / "cache")


@pytest.mark.parametrize("dropout", [0.0, 0.9])
@pytest.mark.parametrize("loss_on", ["all", "text"])
def test_keywords_in_the_text_may_count_more(corpus_with_forms, tokenizer, dropout, loss_on):
    settings = {"category_dropout": dropout, "loss_on": loss_on, "keyword_weight": 3.0}
    order = BatchOrder(corpus_with_forms, 4, seed=0, **settings)
    emphasised = set()
    for batch in itertools.chain.from_iterable(epoch(order, number) for number in range(3)):
        assert set(np.unique(batch.loss_weights)) == {0, np.float32(1 / 3), 1}
        assert batch.counted == np.count_nonzero(batch.loss_weights)
        heavy = np.where(batch.loss_weights == 1, batch.ids, tokenizer.start)
        for ids, numbers in zip(heavy, batch.documents, strict=True):
            for number in range(1, numbers.max() + 1):
                own = [token for token in ids[numbers == number] if token != tokenizer.start]
                title = tokenizer.decode([tokenizer.tag("title"), *own]).record.title
                emphasised.add(title.replace(" ", ""))
    assert emphasised == {"Catsredhat", "sleptdog", ""}


def test_keywords_that_were_cut_off_have_no_place(tokenizer, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text(render(Record(None, "cat dog", "cat " + "so " * 100 + "dog")))
    corpus = corpus_of(text, tokenizer, tmp_path / "cache")
    assert corpus.lengths.tolist() == [64]
    assert len(corpus.keyword_places(0)) > 0
    assert corpus.keyword_places(0).max() < 64


def test_parts_of_a_batch_have_all_its_documents(corpus):
    batch = next(BatchOrder(corpus, 30, seed=0).in_order(48))
    parts = batch.parts(3)
    assert documents(parts) == documents([batch])
    assert len(parts) == 3
    assert len({len(part.ids) for part in parts}) == 2
    assert sum(part.counted for part in parts) == batch.counted


def test_in_order_the_first_documents_come_once_and_whole(corpus):
    order = BatchOrder(corpus, 8, seed=0, category_dropout=0.5, pool=2)
    first = sorted(tuple(corpus.document(number)) for number in range(37))
    assert documents(order.in_order(37)) == first


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.integers(1, 1024), st.integers(1, 9), min_size=1, max_size=20),
    st.integers(1, 100),
)
def test_shapes_hold_a_batch_of_documents_of_any_length(histogram, batch_size):
    counts = np.zeros(max(histogram) + 1)
    counts[list(histogram)] = list(histogram.values())
    budget = batch_size * np.average(np.arange(len(counts)), weights=counts)
    shapes = choose_shapes(counts, batch_size)
    lengths = [shape.length for shape in shapes]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] >= max(histogram)
    assert len(shapes) <= 10
    for rows, length in shapes:
        assert rows * length >= budget - length / 2
        assert rows == 1 or rows * length <= budget + max(length / 2, 4 * rows)


@pytest.mark.parametrize("length", [7, 25, 31, 45, 61, 100])
def test_rows_are_as_long_as_documents_of_one_length_fill(length):
    counts = np.zeros(length + 1)
    counts[length] = 1
    row = choose_shapes(counts, 64)[0].length
    assert row // length * length > 0.95 * row


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 5))
def test_packing_puts_each_document_into_a_row_that_holds_it(lengths, rows):
    shapes = [Shape(rows, 40), Shape(max(1, rows // 2), 80), Shape(1, 100)]
    packed = pack(np.array(lengths), shapes)
    numbers = [number for found in packed for row in found for number in row]
    assert sorted(numbers) == list(range(len(lengths)))
    for shape, found in zip(shapes, packed, strict=True):
        assert len(found) % shape.rows == 0
        assert all(sum(lengths[number] for number in row) <= shape.length for row in found)
    # Every batch has a document.
    assert sum(not row for found in packed for row in found) < rows


@given(st.lists(st.integers(1, 40), min_size=2, max_size=60))
def test_no_two_rows_could_be_one(lengths):
    (packed,) = pack(np.array(lengths), [Shape(1, 40)])
    filled = sorted(sum(lengths[number] for number in row) for row in packed)
    assert len(filled) == 1 or filled[0] + filled[1] > 40


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_a_shuffle_is_a_permutation(count, key):
    shuffled = _shuffle(np.arange(count, dtype=np.uint64), count, (key, 0))
    assert sorted(shuffled) == list(range(count))


def test_a_shuffle_leaves_no_order():
    shuffled = _shuffle(np.arange(5000, dtype=np.uint64), 5000, (0, 0))
    assert abs(np.corrcoef(np.arange(5000), shuffled)[0, 1]) < 0.05
    assert len(set(np.diff(shuffled))) > 2000
