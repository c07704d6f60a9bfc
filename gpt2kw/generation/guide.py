"""Guidance of the decode loop toward keywords that a text does not have yet.

Three things work together, in the manner of Keyword2Text's boost that grows (Pascual et
al. 2021) and of Ctrl-G's automata over tokens (Zhang et al. 2024), but with no model
beside the one that writes:

- a push: tokens that begin or continue a missing keyword get a higher logit, the more so
  the more often the model would have ended the text by now;
- a bar: until no keyword is missing, the text may not end;
- a rail: as soon as the tokens that are left are just enough for the keywords that are
  missing, nothing else may come.

Whether a keyword is there is read off the text itself, however its tokens were cut.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2kw.errors import UserError
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.inflection import keyword_forms, keyword_pattern, lengthens_word

_PUSH = 2.0
_PUSH_GROWS = 6.0
"""Nats by which a keyword's first token is pushed at first, and more once the model would
have ended the text."""
_CONTINUE = 4.0
"""Nats for the tokens that complete a keyword of several, on top of the push."""
_NEVER = 10**6
_WORTH = 4.0
"""Nats that a text may be odder by for each keyword that it has, and not be given up."""
_PENDING = 0.7
"""What counts for a keyword whose word may still go on, as a share of that."""
_BEGUN = 0.4
"""What counts if a keyword's first tokens are there."""
_REPETITION = 2.0
"""Nats that a text is worse by for each long token that came before."""
_LONG = 4
"""Letters that a long token has at least."""


@dataclass
class _Node:
    """A place in a trie of token sequences."""

    children: dict[int, "_Node"]
    rest: int = _NEVER
    """The least tokens to the end of the keyword as it was given; not of its other forms."""

    def insert(self, tokens: Sequence[int], own: bool) -> None:
        node = self
        for left, token in zip(range(len(tokens), 0, -1), tokens, strict=True):
            if own:
                node.rest = min(node.rest, left)
            node = node.children.setdefault(token, _Node({}))
        if own:
            node.rest = 0


class Lexicon:
    """What a tokenizer's tokens are as text, and how keywords are written with them."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        """Take a tokenizer, and the number of rows of the model's embedding."""
        self._tokenizer = tokenizer
        self.pieces = tokenizer.pieces() + [b""] * (rows - tokenizer.size)
        self.goes_on = np.array([_goes_on(piece) for piece in self.pieces])
        """bool [rows]: the tokens that lengthen a word that stands before them."""
        texts = (piece.decode("utf-8", "ignore").strip() for piece in self.pieces)
        self.long = [len(text) >= _LONG and text.isalpha() for text in texts]
        """Which tokens are long, mostly the stems of nouns and verbs."""
        # Added to scores, for sums take a tenth of the time of choosing by a mask.
        self.against_going_on = np.where(self.goes_on, -_CONTINUE, 0).astype(np.float32)
        self.no_going_on = np.where(self.goes_on, -np.inf, 0).astype(np.float32)

    @functools.lru_cache(1024)  # noqa: B019  (a lexicon lives as long as its model)
    def tries(self, keyword: str) -> tuple[_Node, _Node]:
        """Return a keyword's tries: at the start of a text, and behind other words.

        They have the usual forms, for only these are pushed; others count where they come.
        """
        start, behind, pattern = _Node({}), _Node({}), keyword_pattern(keyword)
        forms = []
        for number, words in enumerate(keyword_forms(keyword, usual=True)):
            for joint in (" ", "-") if len(words) > 1 else ("",):
                text = joint.join(words)
                capital = text[:1].upper() + text[1:]
                # A capital may be another word: that of ß is SS.
                for written in filter(pattern.search, dict.fromkeys((text, capital))):
                    forms += [(start, written, number == 0), (behind, f" {written}", number == 0)]
        ids = self._tokenizer.encode_content([text for _, text, _ in forms])
        for (trie, _, own), tokens in zip(forms, ids, strict=True):
            trie.insert(tokens, own)
        return start, behind


def _goes_on(piece: bytes) -> bool:
    text = piece.decode("utf-8", "ignore")
    # A byte that only makes a character with others may well be a letter.
    return lengthens_word(text) if text and piece[:1].isascii() else bool(piece)


class KeywordPlan:
    """The keywords of one text, and what they cost."""

    def __init__(
        self,
        lexicon: Lexicon,
        keywords: Sequence[str],
        must: bool,
        bars: Sequence[int],
        body: int | None = None,
    ) -> None:
        """Take keywords as `distinct_keywords` gives them.

        If texts `must` have them, the ids `bars` wait until they do. Behind the id `body` comes
        what keywords are not looked for in.
        """
        self.lexicon = lexicon
        self.bars = list(bars)
        self.body = body
        self.keywords = tuple(keywords)
        self.must = must
        self.patterns = [keyword_pattern(keyword) for keyword in keywords]
        tries = [lexicon.tries(keyword) for keyword in keywords]
        self.starts = [start for start, _ in tries]
        self.behind = [behind for _, behind in tries]
        self.costs = [behind.rest for behind in self.behind]
        self._first_tokens: dict[tuple[tuple[int, ...], bool], np.ndarray] = {}

    @property
    def needed(self) -> int:
        """The tokens that a text with all keywords takes at least, its end mark included."""
        # The first one may cost more at the start of a text than behind a space.
        more = min(s.rest - b.rest for s, b in zip(self.starts, self.behind, strict=True))
        return sum(self.costs) + max(0, more) + 1

    def first_tokens(self, keywords: tuple[int, ...], at_start: bool) -> np.ndarray:
        """Return the ids that any of these keywords may begin with, int64."""
        if (keywords, at_start) not in self._first_tokens:
            tries = self.starts if at_start else self.behind
            found = {token for k in keywords for token in tries[k].children}
            self._first_tokens[keywords, at_start] = np.array(sorted(found), np.int64)
        return self._first_tokens[keywords, at_start]

    def check_length(self, max_tokens: int) -> None:
        """Raise `UserError` if the keywords must come, and can't in so many tokens."""
        if self.must and self.needed > max_tokens:
            raise UserError(
                f"the keywords take {self.needed} tokens, and --max-tokens is {max_tokens}",
                f"give --max-tokens {self.needed} or more, fewer keywords, "
                "or --keyword-mode prefer",
            )

    def guide(self, text: str = "") -> "KeywordGuide":
        """Return the guide of a text that begins with `text`."""
        return KeywordGuide(self, text.encode())


class KeywordGuide:
    """Follows one text, and steers it. See `gpt2kw.generation.sampling.Guide`."""

    def __init__(self, plan: KeywordPlan, text: bytes) -> None:
        """Begin behind `text`."""
        self._plan = plan
        self._text = text
        self._missing = tuple(range(len(plan.keywords)))
        """The keywords that are not in the text, or only as a word that may still go on."""
        self._pending: frozenset[int] = frozenset()
        """The keywords that the last word is, if it ends here."""
        self._begun: list[tuple[int, _Node]] = []
        """Keywords whose first tokens stand at the end of the text."""
        self._wish = 0.0
        self._repeated = 0
        """How many of the long tokens came before."""
        self._seen: frozenset[int] = frozenset()
        self._over = False
        """Whether the title has ended, and a body goes on."""
        self.forced = 0
        """The tokens for which there was no choice but to go on with a keyword."""
        if text:
            self._look()

    def copy(self) -> "KeywordGuide":
        """Return a guide that goes on from here by itself."""
        twin = KeywordGuide(self._plan, b"")
        twin.__dict__.update(self.__dict__)
        return twin

    @property
    def merit(self) -> float:
        """How promising what the text has is, in nats: its keywords less what it repeats."""
        there = len(self._plan.keywords) - len(self._missing) + _PENDING * len(self._pending)
        if any(k not in self._pending for k, _ in self._begun):
            there += _BEGUN
        return _WORTH * there - _REPETITION * self._repeated

    def add(self, token: int) -> None:
        """Take note of a token that was chosen."""
        plan = self._plan
        if plan.lexicon.long[token]:
            self._repeated += token in self._seen
            self._seen |= {token}
        if token == plan.body:
            # What the title ends with is whole, whatever follows.
            self._missing = tuple(k for k in self._missing if k not in self._pending)
            self._pending, self._begun, self._over = frozenset(), [], True
        if self._over:
            return
        tries = plan.behind if self._text else plan.starts
        reached = [*self._begun, *((k, tries[k]) for k in self._missing)]
        self._begun = [(k, n.children[token]) for k, n in reached if token in n.children]
        self._text += plan.lexicon.pieces[token]
        if self._missing:
            self._look()

    def _look(self) -> None:
        """Find which keywords are in the text."""
        text = self._text.decode("utf-8", "replace")
        if self._text[-1:] > b"\x7f":
            # Half a character: what it will be is not known.
            text = text.rstrip("\ufffd")
        missing, pending = [], set()
        for k in self._missing:
            found = self._plan.patterns[k].search(text)
            if found is None or found.end() == len(text):
                missing.append(k)
                if found:
                    pending.add(k)
        self._missing, self._pending = tuple(missing), frozenset(pending)
        self._begun = [(k, node) for k, node in self._begun if k in self._missing]

    def steer(self, scores: np.ndarray, logits: np.ndarray, wish_to_end: float, left: int) -> None:
        """Change `scores` in place, for one of the `left` tokens that may still come."""
        if not self._missing or self._over:
            return
        plan = self._plan
        absent = [k for k in self._missing if k not in self._pending]
        if self._pending:
            self._close(scores)
        if absent:
            self._wish += wish_to_end
            self._push(scores, absent)
        if plan.must:
            if absent:
                scores[plan.bars] = -np.inf
            behind = left - 1
            # With the end mark, which is to fit too.
            owed = 1 + sum(plan.costs[k] for k in absent)
            at_risk = sum(plan.costs[k] for k in self._pending)
            if behind < owed + at_risk:
                self._rail(scores, logits, absent, behind, owed, at_risk)

    def _push(self, scores: np.ndarray, absent: Sequence[int]) -> None:
        plan = self._plan
        push = np.float32(_PUSH + _PUSH_GROWS * min(1.0, self._wish))
        begun = [node.children for k, node in self._begun if k not in self._pending]
        going_on = [token for children in begun for token in children]
        # What goes on with a keyword gets no more for beginning one too.
        pushed = scores[going_on] + (push + np.float32(_CONTINUE)) if going_on else None
        if not self._pending:
            # Behind a keyword comes something else, if the model likes.
            scores[plan.first_tokens(tuple(absent), not self._text)] += push
        if going_on:
            scores[going_on] = pushed

    def _close(self, scores: np.ndarray) -> None:
        """Make it less likely that a word which is a keyword grows into another one."""
        longer = [token for _, node in self._begun for token in node.children]
        kept = scores[longer]
        scores += self._plan.lexicon.against_going_on
        scores[longer] = kept

    def _rail(self, scores, logits, absent, behind, owed, at_risk) -> None:
        """Leave only tokens behind which all that is owed still fits into `behind` tokens."""
        plan = self._plan
        fitting = []
        tries = plan.behind if self._text else plan.starts
        for k, node in [*((k, tries[k]) for k in absent), *self._begun]:
            if k in self._pending:
                continue
            for token, child in node.children.items():
                risk = at_risk if plan.lexicon.goes_on[token] else 0
                if owed - plan.costs[k] + child.rest + risk <= behind:
                    fitting.append(token)
        if behind >= owed or not absent:
            # Any word may come, but none that lengthens the one that a keyword is.
            scores += plan.lexicon.no_going_on
            scores[fitting] = logits[fitting]
        else:
            self.forced += 1
            scores[:] = -np.inf
            scores[fitting] = logits[fitting]
