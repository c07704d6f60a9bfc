"""Clean the fetched texts: readable English, nothing coarse, nothing twice.

What is left goes to `records.jsonl` for `gpt2kw.encode`, the forum titles among it to
`titles.jsonl` too, and the keyword sets that are kept from training to `heldout.jsonl`.
`counts.json` says how many texts of each source came, why others went, and how many are
left.
"""

import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path

import tyro
from tqdm import tqdm

from gpt2kw.text.keywords import straighten_quotes


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """Clean the fetched texts."""

    build: Path = Path(__file__).parent / "build"
    """Where fetch.py wrote, and the result goes."""
    similarity: float = 0.6
    """Jaccard similarity of their word trigrams from which two texts count as one."""
    heldout_sets: int = 2000
    """Sets of CommonGen's concepts that no training text was written for."""
    seed: int = 0
    """Of the sets that are held out, and of what is kept of a kind with too many texts."""


@dataclass
class Text:
    """A text on its way, as in the fetched file."""

    source: str
    kind: str
    title: str
    body: str | None = None
    concepts: list[str] = field(default_factory=list)


HARMLESS = Path(__file__).with_name("harmless.txt")
"""Words on the lists of coarse ones whose plain sense is the usual one."""
MOST_WORDS = 32
MOST_CHARACTERS = 200
FEWEST_WORDS = {"film": 2, "definition": 4, "quote": 4, "sentence": 4}
MOST_OF_KIND = {"definition": 45_000, "film": 20_000, "software": 25_000}
"""Kinds that would otherwise outweigh everyday English."""
_KIND_ORDER = (
    *("title", "sentence", "caption", "fact", "joke", "quote", "definition", "software", "film"),
)
"""Of texts that are nearly the same, the one of the earlier kind stays."""
LEAST_ENGLISH = 0.75
"""Share of a text's words that an American word list must know."""

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_PLAIN = str.maketrans({"\u2013": "-", "\u2014": "-", "\u2026": "...", "\u00b4": "'", "`": "'"})
_NOT_A_TITLE = re.compile(
    r"https?:|www\.|/?\br/|/?\bu/|\b(reddit|subreddit|sub|upvotes?|karma|mods?|repost|x-?post|"
    r"crosspost|cake ?day|nsfw|OC|gif|AMA)\b",
    re.I,
)
_NAMES_OF_TYPES = re.compile(
    r"\b(biological (species|genus)|film character|fictional character|(pop|rock|hip hop|"
    r"country|jazz) artist|person of|organisation (founder|leader))\b",
    re.I,
)
"""What stands in place of a name in the captions that CommonGen took from Conceptual Captions."""


def normalise(text: str) -> str:
    """Return a text on one line, in plain ASCII punctuation, without tags around it."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    text = straighten_quotes(text).translate(_PLAIN)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Co", "So", "Sk"))
    text = re.sub(r"''|``", '"', " ".join(text.split()))
    # Tokenised text is put together again.
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m|[.,;:!?%)\]])(?= |$|[.,!?])", r"\1", text)
    return text.replace("( ", "(").strip(" -*~\t")


def as_title(text: Text) -> str:
    """Return a text's title in the form that all of its kind have."""
    title = normalise(text.title)
    if text.kind == "title":
        title = re.sub(r"^\[[^\]]*\]\s*|\s*[\[(][^\])]*[\])]$", "", title)
    if text.kind == "film":
        title = re.sub(r"^(.*), (The|A|An)$", r"\2 \1", title)
    if text.kind == "software":
        title = re.sub(r"\s*(\([^)]*\)|[-:;] [^-]*)$", "", title)
    if text.kind == "joke":
        title = title.strip('"')
    if text.kind in ("sentence", "caption", "title", "software"):
        title = re.sub(r"(?<=[\w'\"])\.$", "", title)
    return title[:1].upper() + title[1:]


class Filter:
    """Says what is wrong with a text, if anything is."""

    def __init__(self, english: Iterable[str], coarse: set[str]) -> None:
        self._english = {word.lower() for word in english}
        self._coarse_words = {word for word in coarse if " " not in word}
        phrases = sorted(map(re.escape, coarse - self._coarse_words))
        self._coarse_phrases = re.compile(rf"\b({'|'.join(phrases)})\b")

    def fault(self, text: Text) -> str | None:
        """Return why a text is not used, in a few words."""
        for section in (text.title, text.body or ""):
            words = _WORD.findall(section.lower())
            if not section.isascii() or (section and self.english_share(words) < LEAST_ENGLISH):
                return "not English"
            if self.is_coarse(section, words):
                return "coarse"
        words = _WORD.findall(text.title.lower())
        if len(words) < FEWEST_WORDS.get(text.kind, 3):
            return "too short"
        if len(text.title.split()) > MOST_WORDS or len(text.title) > MOST_CHARACTERS:
            return "too long"
        return self._fault_of_form(text, words)

    def english_share(self, words: list[str]) -> float:
        """Return the share of words that are in the word list, 0 for none."""
        known = sum(word in self._english or word.split("'")[0] in self._english for word in words)
        return known / len(words) if words else 0

    def is_coarse(self, section: str, words: list[str]) -> bool:
        """Whether a word or a phrase is on the list of coarse ones."""
        return not self._coarse_words.isdisjoint(words) or bool(
            self._coarse_phrases.search(section.lower())
        )

    def _fault_of_form(self, text: Text, words: list[str]) -> str | None:
        letters = [c for c in text.title if c.isalpha()]
        if sum(c.isupper() for c in letters) > 0.4 * len(letters) and text.kind != "film":
            return "in capitals"
        if len(letters) < 0.6 * len(text.title):
            return "few letters"
        if text.kind == "title" and _NOT_A_TITLE.search(text.title):
            return "about the forum"
        if text.source == "commongen" and _NAMES_OF_TYPES.search(text.title):
            return "placeholder for a name"
        if text.kind == "definition":
            head = _WORD.findall(text.title.partition(":")[0].lower())
            if self.english_share(head) < 1:
                return "rare word"
        return None


class Known:
    """Texts seen so far, to find those that come again, the same or nearly so.

    Near ones are found by the MinHash of their word trigrams (Broder 1997, "On the
    resemblance and containment of documents").
    """

    def __init__(self, similarity: float) -> None:
        # Comes with `pip install '.[recipe]'`, which the rest here does without.
        from datasketch import MinHash, MinHashLSH

        self._exact: set[str] = set()
        self._similarity = similarity
        self._signature = partial(MinHash, num_perm=64)
        self._near = MinHashLSH(threshold=similarity, num_perm=64)
        self._shingles: dict[str, set[bytes]] = {}

    def add(self, text: str) -> bool:
        """Remember a text; return whether one like it was known."""
        words = _WORD.findall(text.lower())
        key = " ".join(words)
        if key in self._exact:
            return True
        self._exact.add(key)
        if len(words) < 5:
            return False
        shingles = {" ".join(words[i : i + 3]).encode() for i in range(len(words) - 2)}
        signature = self._signature()
        signature.update_batch(list(shingles))
        # The hashes propose some that are less alike, which the trigrams themselves tell.
        if any(self._is_near(shingles, other) for other in self._near.query(signature)):
            return True
        self._near.insert(key, signature, check_duplication=False)
        self._shingles[key] = shingles
        return False

    def _is_near(self, shingles: set[bytes], other: str) -> bool:
        common = len(shingles & self._shingles[other])
        return common >= self._similarity * (len(shingles) + len(self._shingles[other]) - common)


def clean(options: CleanOptions) -> None:
    """Write `records.jsonl`, `heldout.jsonl` and `counts.json` into the build folder."""
    counts: dict[str, Counter[str]] = {}
    texts = list(_good(options.build, counts))
    heldout = _heldout_sets(texts, options)
    known = Known(options.similarity)
    _write_heldout(options.build / "heldout.jsonl", heldout, known)
    rest = [text for text in texts if tuple(text.concepts) not in heldout]
    _count(counts, "held out", texts, rest)
    distinct = [text for text in tqdm(rest, "near-duplicates") if not known.add(text.title)]
    _count(counts, "known already", rest, distinct)
    kept = _capped(distinct, options.seed)
    _count(counts, "over the kind's cap", distinct, kept)
    _count(counts, "kept", kept, [])
    _write_records(options.build / "records.jsonl", kept)
    _write_records(options.build / "titles.jsonl", [t for t in kept if t.kind == "title"])
    kinds = Counter(text.kind for text in kept)
    report = {"sources": counts, "kinds": dict(kinds.most_common()), "texts": len(kept)}
    (options.build / "counts.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps(report, indent=2))


def _good(build: Path, counts: dict[str, Counter[str]]) -> Iterator[Text]:
    """Yield the fetched texts that have no fault, the kinds in their order."""
    coarse = set(_lines(build / "coarse.txt")) - set(_lines(HARMLESS))
    words = Filter(_lines(build / "english.txt"), coarse)
    texts = [Text(**json.loads(line)) for line in _lines(build / "raw.jsonl")]
    for text in sorted(texts, key=lambda text: _KIND_ORDER.index(text.kind)):
        text.title = as_title(text)
        text.body = normalise(text.body) if text.body else None
        fault = words.fault(text)
        counts.setdefault(text.source, Counter()).update(["fetched", *([fault] if fault else [])])
        if not fault:
            yield text


def _heldout_sets(texts: list[Text], options: CleanOptions) -> dict[tuple[str, ...], list[str]]:
    """Choose sets of concepts by their hash; return them with the sentences written for them."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for text in texts:
        if text.concepts:
            sets.setdefault(tuple(text.concepts), []).append(text.title)
    chosen = sorted(sets, key=lambda concepts: _hash(" ".join(concepts), options.seed))
    return {concepts: sets[concepts] for concepts in chosen[: options.heldout_sets]}


def _write_heldout(path: Path, heldout: dict[tuple[str, ...], list[str]], known: Known) -> None:
    """Write the held-out sets, and make their sentences known, so that none is trained on."""
    with open(path, "w", encoding="utf-8") as file:
        for concepts, sentences in heldout.items():
            print(json.dumps({"keywords": concepts, "sentences": sentences}), file=file)
            for sentence in sentences:
                known.add(sentence)


def _write_records(path: Path, texts: list[Text]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            record = {"kind": text.kind, "title": text.title, "body": text.body}
            print(json.dumps(record), file=file)


def _capped(texts: list[Text], seed: int) -> list[Text]:
    """Return the texts without those of a kind that are too many, chosen by their hash."""
    kept = []
    for kind in _KIND_ORDER:
        of_kind = [text for text in texts if text.kind == kind]
        of_kind.sort(key=lambda text: _hash(text.title, seed))
        kept += of_kind[: MOST_OF_KIND.get(kind)]
    return sorted(kept, key=lambda text: _hash(text.title, seed))


def _count(
    counts: dict[str, Counter[str]], name: str, before: list[Text], after: list[Text]
) -> None:
    """Note by source how many texts are in the first list only."""
    gone = Counter(text.source for text in before)
    gone.subtract(text.source for text in after)
    for source, number in gone.items():
        counts[source][name] += number


def _hash(text: str, seed: int) -> bytes:
    return blake2b(f"{seed} {text}".encode(), digest_size=8).digest()


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


if __name__ == "__main__":
    clean(tyro.cli(CleanOptions))
