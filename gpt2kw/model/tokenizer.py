"""Byte-level BPE in which each mark of the format is one token."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, ByteLevelBPETokenizer
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.processors import ByteLevel

from gpt2kw.errors import UserError
from gpt2kw.text.format import (
    END,
    MARKS,
    START,
    TAGS,
    Document,
    Record,
    from_pieces,
    to_pieces,
)

_VOCABULARY_MULTIPLE = 64
"""Matrix products want round sizes; the rows behind the last token are never used."""


class Tokenizer:
    """Maps records to token ids and back.

    Content is never read as a mark, whatever it holds: the ids of marks come from the
    sections of a record alone.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        """Take a `tokenizers` tokenizer, and add those marks that it lacks."""
        self._fast = fast
        self._fast.no_padding()
        self._fast.no_truncation()
        # Some tokenizers put marks of their own around each text that others encode with them.
        self._fast.post_processor = ByteLevel(trim_offsets=False)
        missing = [mark for mark in MARKS if fast.token_to_id(mark) is None]
        self.had_marks = not missing
        fast.add_special_tokens(
            [AddedToken(mark, special=True, normalized=False) for mark in MARKS]
        )
        # Else a tag in a title would become the tag's token.
        fast.encode_special_tokens = True
        self._mark_ids = {mark: fast.token_to_id(mark) for mark in MARKS}
        self._marks = {token: mark for mark, token in self._mark_ids.items()}
        self.size = fast.get_vocab_size()
        """The number of tokens."""

    @classmethod
    def train(cls, records: Iterable[Record], vocabulary_size: int) -> "Tokenizer":
        """Learn byte-level BPE on the content of records."""
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(
            (content for record in records for _, content in to_pieces(record)),
            vocab_size=vocabulary_size,
            special_tokens=list(MARKS),
            show_progress=False,
        )
        return cls(FastTokenizer.from_str(bpe.to_str()))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`.

        Raises:
            UserError: the folder has neither, or they can't be read.
        """
        path = folder / "tokenizer.json"
        try:
            if path.exists():
                return cls(FastTokenizer.from_file(str(path)))
            if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
                files = str(folder / "vocab.json"), str(folder / "merges.txt")
                bpe = ByteLevelBPETokenizer.from_file(*files)
                return cls(FastTokenizer.from_str(bpe.to_str()))
        except Exception as error:  # tokenizers raises plain Exception
            raise UserError(
                f"can't read the tokenizer in {folder}: {error}", "fetch it anew"
            ) from error
        raise UserError(f"{folder} has no tokenizer.json", "give a whole model folder")

    def save(self, folder: Path) -> None:
        """Write files that transformers' `AutoTokenizer` reads too."""
        # Elsewhere a prompt is written as text, and its marks are to be read as marks. A
        # copy is changed, for this may run beside an `encode`.
        written = FastTokenizer.from_str(self.definition())
        written.encode_special_tokens = False
        written.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": START,
            "eos_token": END,
            "pad_token": END,
            "additional_special_tokens": list(TAGS.values()),
            "clean_up_tokenization_spaces": False,
            # Else token_type_ids come along, whose embeddings GPT-2 adds to those of the text.
            "model_input_names": ["input_ids", "attention_mask"],
            # So that several prompts can be gone on with at once.
            "padding_side": "left",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    def definition(self) -> str:
        """Return all that decides which ids a text gets, as JSON."""
        return self._fast.to_str()

    @property
    def padded_size(self) -> int:
        """`size` rounded up: the rows of a model's embedding."""
        return -(-self.size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE

    @property
    def start(self) -> int:
        """The id of the start mark."""
        return self._mark_ids[START]

    @property
    def end(self) -> int:
        """The id of the end mark."""
        return self._mark_ids[END]

    def tag(self, section: str) -> int:
        """The id of a section's tag."""
        return self._mark_ids[TAGS[section]]

    @property
    def mark_ids(self) -> list[int]:
        """The ids of all marks."""
        return list(self._marks)

    def may_follow_title(self, rows: int) -> np.ndarray:
        """Return bool [rows]: the ids of content, of the end mark and of the body's tag.

        `rows` are those of a model's embedding, which may be more than there are tokens.
        """
        allowed = np.arange(rows) < self.size
        allowed[self.mark_ids] = False
        allowed[[self.end, self.tag("body")]] = True
        return allowed

    def encode(self, records: Sequence[Record], finished: bool = True) -> Iterator[list[int]]:
        """Yield the token ids of each record; without the end mark if not `finished`."""
        documents = [to_pieces(record, finished) for record in records]
        contents = [content for pieces in documents for _, content in pieces]
        encodings = iter(self._fast.encode_batch_fast(contents, add_special_tokens=False))
        for pieces in documents:
            ids: list[int] = []
            for mark, _ in pieces:
                ids.append(self._mark_ids[mark])
                ids += next(encodings).ids
            yield ids

    def encode_pieces(
        self, records: Sequence[Record]
    ) -> Iterator[list[tuple[int, list[int], list[tuple[int, int]]]]]:
        """Yield the pieces of each record: the id of the mark, the content's ids and their spans.

        A span is where in the content the characters of a token start and end.
        """
        documents = [to_pieces(record) for record in records]
        contents = [content for pieces in documents for _, content in pieces]
        encodings = iter(self._fast.encode_batch(contents, add_special_tokens=False))
        for pieces in documents:
            following = ((self._mark_ids[mark], next(encodings)) for mark, _ in pieces)
            yield [(mark, encoding.ids, encoding.offsets) for mark, encoding in following]

    def encode_content(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts without any mark."""
        encodings = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def pieces(self) -> list[bytes]:
        """Return the bytes that each token stands for; none for marks."""
        of = {character: byte for byte, character in enumerate(_byte_characters())}
        pieces = [b""] * self.size
        for text, token in self._fast.get_vocab(with_added_tokens=False).items():
            if token not in self._marks:
                # A token that someone added by hand may hold any character.
                known = all(character in of for character in text)
                pieces[token] = bytes(of[c] for c in text) if known else text.encode()
        return pieces

    def decode(self, ids: Iterable[int]) -> Document:
        """Read token ids, a model's or `encode`'s, as a document."""
        pieces: list[tuple[str, list[int]]] = [(START, [])]
        for token in ids:
            if mark := self._marks.get(token):
                pieces.append((mark, []))
            elif token < self.size:
                pieces[-1][1].append(token)
        return from_pieces(
            (mark, self._fast.decode(content, skip_special_tokens=False))
            for mark, content in pieces
        )


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary.

    Printable ones of Latin-1 stand for themselves, the others for those from U+0100 on
    (Radford et al. 2019, GPT-2's encoder).
    """
    others = iter(range(256, 512))
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
