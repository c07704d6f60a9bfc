"""How near a text comes to what people wrote about the same keywords."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from gpt2kw.evaluation.words import Words, ngrams

# Lower case, for titles have capitals where they like. The other words of a sentence
# count as they do in sacrebleu, with 13a's parting of punctuation.
_BLEU = BLEU(lowercase=True, effective_order=True)
_ORDERS = (1, 2, 3, 4)
_LENGTH_DEVIATION = 6.0


def bleu_counts(text: str, references: Sequence[str]) -> list[float]:
    """Return what a text adds to BLEU-4: matches of 1 to 4 words, runs of each, both lengths.

    Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine
    Translation", counted by sacrebleu (Post 2018, "A Call for Clarity in Reporting BLEU
    Scores"), in lower case. 10 numbers, of which `bleu` takes the sums.
    """
    score = _BLEU.sentence_score(text, list(references))
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def bleu(sums: np.ndarray) -> np.ndarray:
    """Return the BLEU-4 of a corpus, 0 to 100, from sums of `bleu_counts`: [..., 10] to [...]."""
    precisions = np.log(sums[..., :4] / sums[..., 4:8]).mean(-1)
    brevity = np.minimum(0, 1 - sums[..., 9] / sums[..., 8])
    return 100 * np.exp(precisions + brevity)


def rouge_l(text: Words, references: Sequence[Words]) -> float:
    """Return ROUGE-L, 0 to 1: the F1 of the longest common subsequence, with the best reference.

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", without stemming.
    """
    return max(_rouge_l(text, reference) for reference in references)


def _rouge_l(text: Words, reference: Words) -> float:
    common = [0] * (len(reference) + 1)
    for word in text:
        before = 0
        for place, other in enumerate(reference, start=1):
            longest = before + 1 if word == other else max(common[place], common[place - 1])
            before, common[place] = common[place], longest
    return 2 * common[-1] / (len(text) + len(reference)) if common[-1] else 0.0


def cider(
    texts: Sequence[Sequence[Words]], references: Sequence[Sequence[Words]]
) -> list[list[float]]:
    """Return the CIDEr-D of each text of each prompt, 0 to 10, with that prompt's references.

    Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation": the
    cosine of the runs of 1 to 4 words weighted by how few prompts' references have
    them, counts clipped to the reference's, less for other lengths. Words are not stemmed.
    Prompts without references have no texts either.
    """
    holders = Counter(
        gram for some in references for gram in {g for text in some for g in _all_ngrams(text)}
    )
    # A run that no reference has is as rare as one that a single prompt's have.
    prompts = sum(map(bool, references))
    rarity = {gram: math.log(prompts / count) for gram, count in holders.items()}
    unknown = math.log(max(1, prompts))

    def weighted(text: Words) -> list[dict[Words, float]]:
        counts = [Counter(ngrams(text, n)) for n in _ORDERS]
        return [{g: c * rarity.get(g, unknown) for g, c in of.items()} for of in counts]

    scores = []
    for some, their in zip(texts, references, strict=True):
        vectors = [(len(reference), weighted(reference)) for reference in their]
        scores.append([_cider(len(text), weighted(text), vectors) for text in some])
    return scores


def _all_ngrams(text: Words) -> list[Words]:
    return [gram for n in _ORDERS for gram in ngrams(text, n)]


def _cider(
    length: int,
    vectors: list[dict[Words, float]],
    references: Sequence[tuple[int, list[dict[Words, float]]]],
) -> float:
    total = 0.0
    for other_length, others in references:
        likeness = sum(map(_clipped_cosine, vectors, others)) / len(_ORDERS)
        total += likeness * math.exp(-((length - other_length) ** 2) / (2 * _LENGTH_DEVIATION**2))
    return 10 * total / len(references)


def _clipped_cosine(vector: dict[Words, float], other: dict[Words, float]) -> float:
    product = sum(
        min(vector[gram], weight) * weight for gram, weight in other.items() if gram in vector
    )
    norms = math.hypot(*vector.values()) * math.hypot(*other.values())
    return product / norms if norms else 0.0
