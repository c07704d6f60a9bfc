"""The base forms of single words, by spaCy's lemmatizer alone."""

from gpt2kw.text.keywords import load_spacy
from gpt2kw.text.word_rules import quicken

_KINDS = ("NOUN", "VERB", "ADJ", "ADV")


class Lemmas:
    """Says what a word may be a form of, without a look at its sentence.

    It is the lemmatizer that wrote the verbs, adjectives and adverbs among the keywords,
    asked for every part of speech: "leaves" is a form of leaf and of leave.
    """

    def __init__(self, spacy_model: str) -> None:
        """Load the lemmatizer of spaCy's model; `UserError` as `load_spacy`."""
        self._nlp = load_spacy(spacy_model)
        lemmatizer = (
            self._nlp.get_pipe("lemmatizer") if "lemmatizer" in self._nlp.pipe_names else None
        )
        self._lemmatizer = lemmatizer if hasattr(lemmatizer, "lemmatize") else None
        """None if the language has none, or one that must see the sentence."""
        if self._lemmatizer:
            quicken(self._lemmatizer)
        self._known: dict[str, frozenset[str]] = {}

    @property
    def has_rules(self) -> bool:
        """Whether there are other forms than the word itself."""
        return self._lemmatizer is not None

    def __call__(self, word: str) -> frozenset[str]:
        """Return the word and its base forms, in lower case."""
        if word not in self._known:
            self._known[word] = frozenset({word.lower(), *self._base_forms(word.lower())})
        return self._known[word]

    def _base_forms(self, word: str) -> set[str]:
        doc = self._nlp.make_doc(word)
        # What spaCy parts, such as "can't", is no single word of its tables.
        if not self._lemmatizer or len(doc) != 1:
            return set()
        token = doc[0]
        found: set[str] = set()
        for token.pos_ in _KINDS:
            found.update(form.lower() for form in self._lemmatizer.lemmatize(token))
        return found
