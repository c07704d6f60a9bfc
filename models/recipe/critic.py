"""Let a critic say which of mini's own texts look most like texts by people.

    python models/recipe/critic.py --round 3 --model checkpoint/mini-own-2

The critic is mini itself with one number in place of the next token. It learns to find, among texts
about the same keywords, the one by people (Deng et al. 2020, "Residual energy-based models for text
generation", who choose among a language model's texts by such a classifier). There are two: each
learns from half of people's texts, and judges what mini wrote about the keywords of the other half.

By itself a critic likes what is unusual. So texts are ranked as `generate` ranks its candidates, by
how likely mini finds them, and the critic adds to that.
"""

import json
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from own import Asked, OwnOptions, asked, read_records, read_texts, usable, wishes
from tqdm import tqdm

from gpt2kw.evaluation.likelihood import Scorer
from gpt2kw.generation.ranking import Text
from gpt2kw.model.backend import choose_precision, tf
from gpt2kw.model.folder import Model
from gpt2kw.model.keras import named_variables, to_keras
from gpt2kw.model.named import load_model
from gpt2kw.model.tokenizer import Tokenizer
from gpt2kw.text.format import Document, Record
from gpt2kw.text.normalise import normal_form
from gpt2kw.training.network import Network
from gpt2kw.training.optimizer import AdamW, Schedule

OTHERS = 3
"""Texts of mini's beside each one by people."""
LISTS = 32
"""Lists of keywords in a step."""
LEARNT = 2e-4
"""The highest learning rate."""
SHARE = 0.25
"""Nats per token that one nat of the critic's is worth."""
_TRIED = 500
"""Choices by which a critic is tried."""
_POOL = 20
_MULTIPLE = 8
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class CriticOptions:
    """Say which of mini's own texts look most like texts by people."""

    model: str
    """The model that wrote them."""
    build: Path = Path(__file__).parent / "build"
    """Where the texts are, and the verdicts go."""
    round: int = 1
    """Which round."""
    seed: int = 0
    """Of the order, of dropout and of the first weights."""


Choice = list[Record]
"""A text by people, and behind it texts of mini's about the same."""


class Critic:
    """Gives each text a number that is higher the more it looks like one by people."""

    def __init__(self, model: Model, steps: int, seed: int) -> None:
        """Begin with the weights of `model`, and a head that finds all texts alike."""
        self._tokenizer = model.tokenizer
        variables = named_variables(to_keras(model))
        self._head = tf.Variable(tf.zeros([model.config["n_embd"], 1]), name="head")
        self._trained = [*variables.values(), self._head]
        self._network = Network(
            variables, model.config, dtype=choose_precision("auto"), dropout=0.1, recompute=False
        )
        self._optimizer = AdamW(Schedule("linear", LEARNT, steps // 20, steps), 0.01)
        self._optimizer._create_all_weights(self._trained)
        self._seed = seed
        ids = tf.TensorSpec([None, None], tf.int32)
        ends, number = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)
        self._train = tf.function(self._learn, input_signature=[ids, ends, number])
        self._score = tf.function(self._scores, input_signature=[ids, ends])

    def train(self, choices: Sequence[Choice], step: int) -> float:
        """Learn from choices of equal size; return the loss in nats a choice."""
        batch = padded([record for choice in choices for record in choice], self._tokenizer)
        return float(self._train(*batch, np.int32(self._seed + step)))

    def score(self, records: Sequence[Record]) -> np.ndarray:
        """Return float32 [records]."""
        return self._score(*padded(records, self._tokenizer)).numpy()

    def _learn(self, ids, ends, seed):
        with tf.GradientTape() as tape:
            scores = tf.reshape(self._scores(ids, ends, seed), [-1, 1 + OTHERS])
            loss = -tf.reduce_mean(tf.nn.log_softmax(scores)[:, 0])
        gradients = tape.gradient(loss, self._trained)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        self._optimizer.apply_if(tf.constant(True), zip(gradients, self._trained, strict=True))
        return loss

    def _scores(self, ids, ends, seed=None):
        places = tf.range(tf.shape(ids)[1])[None]
        documents = tf.cast(places < ends[:, None], tf.int32)
        states = self._network.last_states(ids, documents, seed)
        last = tf.range(tf.shape(ids)[0]) * tf.shape(ids)[1] + ends - 1
        return tf.matmul(tf.cast(tf.gather(states, last), tf.float32), self._head)[:, 0]


def padded(records: Sequence[Record], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of texts, int32 [records, longest], and where each ends, int32 [records]."""
    texts = list(tokenizer.encode(records))
    longest = max(map(len, texts))
    ids = np.zeros((len(texts), -(-longest // _MULTIPLE) * _MULTIPLE), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids, np.array([len(text) for text in texts], np.int32)


def choices(
    people: Iterable[Record], own: dict[Asked, list[Record]], chance: random.Random
) -> Iterator[Choice]:
    """Yield what there is to choose between for each list about which mini wrote something."""
    for record in people:
        if texts := own.get(asked(record)):
            chosen = chance.sample(texts, min(OTHERS, len(texts)))
            yield [record, *chosen, *chance.choices(texts, k=OTHERS - len(chosen))]


def batches(drawn: Sequence[Choice]) -> Iterator[Sequence[Choice]]:
    """Yield choices so that those in a step are about as long."""
    pool = _POOL * LISTS
    for start in range(0, len(drawn), pool):
        alike = sorted(drawn[start : start + pool], key=lambda c: max(len(r.title) for r in c))
        steps = [alike[first : first + LISTS] for first in range(0, len(alike), LISTS)]
        random.Random(start).shuffle(steps)
        yield from steps


def without_copies(
    own: dict[Asked, list[Record]], people: Iterable[Record]
) -> dict[Asked, list[Record]]:
    """Return own texts without those that say what people's say."""
    known = {normal_form(record.title or "") for record in people}
    new = {
        about: [record for record in records if normal_form(record.title) not in known]
        for about, records in own.items()
    }
    return {about: records for about, records in new.items() if records}


def halves(people: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Part texts by people in two; one with several lists of keywords is in one half."""
    parts: tuple[list[Record], list[Record]] = ([], [])
    for record in people:
        parts[zlib.crc32((record.title or "").encode()) % 2].append(record)
    return parts


def train(model: Model, drawn: list[Choice], seed: int) -> Critic:
    """Return a critic that has learnt from all choices once."""
    steps = list(batches(drawn))
    critic, losses = Critic(model, len(steps), seed), []
    for step, batch in enumerate(bar := tqdm(steps, desc="learn", unit=" steps")):
        losses.append(critic.train(batch, step))
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    return critic


def judged(critic: Critic, records: Iterable[Record]) -> dict[Record, float]:
    """Return the critic's number for each text."""
    ordered = sorted(records, key=lambda record: len(record.title))
    found: dict[Record, float] = {}
    for start in tqdm(range(0, len(ordered), _ROWS), desc="judge", unit=" batches"):
        some = ordered[start : start + _ROWS]
        found.update(zip(some, critic.score(some).tolist(), strict=True))
    return found


def merits(scores: dict[Record, float], model: Model) -> dict[Record, float]:
    """Return how good each text is, by the critic and as `generate` ranks candidates."""
    likely = Scorer(model).after_keywords(list(scores))
    found = {}
    for (record, score), cost in zip(scores.items(), likely, strict=True):
        text = Text(
            Document(record),
            keywords=tuple((record.keywords or "").split()),
            nats=cost.nats / cost.tokens,
        )
        *_, oddness = text.rank()
        found[record] = SHARE * score - oddness
    return found


def main() -> None:
    """Do as the options say."""
    options = tyro.cli(CriticOptions, description=__doc__.splitlines()[0])
    build, chance = options.build, random.Random(options.seed)
    titles, texts = read_records(build / "titles.txt"), read_records(build / "texts.txt")
    own = usable(read_texts(build / f"written-{options.round}.jsonl"))
    own = without_copies(own, [*titles, *texts])
    people = halves(wishes(titles, texts, OwnOptions(task="wishes", round=options.round)))
    model, _ = load_model(None, options.model)
    scores: dict[Record, float] = {}
    for learnt, others in (people, people[::-1]):
        drawn = list(choices(learnt, own, chance))
        chance.shuffle(drawn)
        critic = train(model, drawn, options.seed)
        tried = list(choices(others, own, chance))[:_TRIED]
        found = [int(np.argmax(critic.score(choice))) == 0 for choice in tried]
        print(f"{np.mean(found):.1%} of {len(found)} texts by people found among {1 + OTHERS}")
        scores |= judged(critic, (text for r in others for text in own.get(asked(r), ())))
    ranked = merits(scores, model)
    output = build / f"verdicts-{options.round}.jsonl"
    with open(output, "w", encoding="utf-8") as file:
        for record in sorted(ranked, key=ranked.__getitem__, reverse=True):
            fields = {"category": record.category, "keywords": record.keywords}
            fields |= {"title": record.title, "merit": round(ranked[record], 4)}
            file.write(f"{json.dumps(fields)}\n")
    print(f"{len(ranked):,} texts about {len(own):,} lists of keywords in {output}")


if __name__ == "__main__":
    main()
