"""An evaluation from its beginning to its report."""

import logging
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpt2kw.evaluation.coverage import covered_by_all, missing_keywords
from gpt2kw.evaluation.data import (
    PEOPLE,
    REPEATED,
    SHUFFLED,
    TRAINING,
    Prompt,
    Texts,
    Training,
    peoples_texts,
    read_prompts,
    repeated,
    shuffled,
    text_of,
)
from gpt2kw.evaluation.figures import (
    Column,
    Figure,
    Likeness,
    corpus_groups,
    coverage_figures,
    diversity_figures,
    finish_figures,
    form_figures,
    judge_figures,
    likenesses,
    novelty_figures,
    perplexity_figure,
    quality_figures,
)
from gpt2kw.evaluation.finding import choose_training, find_models, judge_loader
from gpt2kw.evaluation.likelihood import Judge, Score, Scorer, load_measured
from gpt2kw.evaluation.options import SETTINGS, EvaluateOptions
from gpt2kw.evaluation.page import tell_of_earlier_report, write_report
from gpt2kw.evaluation.report import Flagged, Report, Sample, Work, compare
from gpt2kw.evaluation.words import words
from gpt2kw.evaluation.writing import Written, leave_out_refused, write
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.generation.sampling import Sampling
from gpt2kw.model.folder import Model
from gpt2kw.text.files import check_output_folder
from gpt2kw.text.lemmas import Lemmas

log = logging.getLogger(__name__)


def evaluate(
    options: EvaluateOptions | None = None, *, progress: bool = False, **fields: Any
) -> Report:
    """Measure models; the fields of `EvaluateOptions` may be given as such.

    Writes `report.json` and `report.html` into the options' folder.

    Raises:
        UserError: the options, the source, a model or the training text can't be used,
            or the report can't be written.
    """
    options = replace(options, **fields) if options else EvaluateOptions(**fields)
    start = time.monotonic()
    folders = find_models(options)
    tell_of_earlier_report(check_output_folder(options.folder))
    load_judge = judge_loader(options, folders.values())
    training_text, notes = choose_training(options, folders)
    prompts, said = read_prompts(options)
    prompts, refused = leave_out_refused(prompts, folders.values(), options.settings().values())
    evaluation = _Evaluation(options, prompts, training_text, progress)
    evaluation.notes += said + refused + notes
    for name, folder in folders.items():
        evaluation.measure_model(name, folder)
    evaluation.measure_texts()
    if load_judge:
        # Late, so that the models' use of memory is their own.
        evaluation.judge(load_judge())
    else:
        evaluation.notes.append("without --judge no other model says how likely the texts are")
    report = evaluation.report(time.monotonic() - start)
    write_report(report, options.folder)
    return report


class _Evaluation:
    """The columns of a report in the making, with their figures."""

    def __init__(
        self,
        options: EvaluateOptions,
        prompts: list[Prompt],
        training_text: Path | None,
        progress: bool,
    ) -> None:
        """Read the training text, and begin with what models are compared to."""
        self._options = options
        self._progress = progress
        self._training_text = training_text
        self._training = Training.read(training_text) if training_text else None
        self._forms = Lemmas(options.spacy_model)
        self._prompts = prompts
        self.notes: list[str] = []
        self._comparisons = {
            name: Column(texts) for name, texts in self._texts_to_compare_with() if any(texts)
        }
        self._written: dict[str, Column] = {}
        self._works: dict[str, Work] = {}
        self._sampling: dict[str, Sampling] = {}
        self._figures: defaultdict[str, list[Figure]] = defaultdict(list)
        self._likenesses: dict[str, list[list[Likeness]]] = {}
        if PEOPLE not in self._comparisons:
            self.notes.append(
                f"{options.source} has no texts by people to compare with; see --references-field"
            )

    def _texts_to_compare_with(self) -> Iterator[tuple[str, Texts]]:
        nsamples, seed = self._options.nsamples, self._options.seed
        people = peoples_texts(self._prompts, nsamples)
        yield PEOPLE, people
        yield SHUFFLED, shuffled(people, seed)
        records = (
            self._training.records
            if self._training
            else [record for prompt in self._prompts for record in prompt.people]
        )
        if records:
            yield REPEATED, repeated(records, len(self._prompts), nsamples, seed)

    @property
    def _columns(self) -> dict[str, Column]:
        return self._written | self._comparisons

    def measure_model(self, name: str, folder: Path) -> None:
        """Write with a model in each setting; measure what it makes of texts by others."""
        model = load_measured(folder)
        first, columns = not self._works, []
        settings = self._options.settings()
        for setting, asked in settings.items():
            column = f"{name} {setting}".strip()
            written = self._write(column, model, asked)
            sampling = asked.sampling(model.sampling)
            if self._sampling.setdefault(setting, sampling) != sampling:
                self.notes.append(
                    "the models' own settings of how tokens are chosen differ; see the page"
                )
            used = asdict(asked) | asdict(sampling)
            self._written[column] = Column(written.texts)
            self._works[column] = Work(
                str(folder),
                model.parameters,
                {key: used[key] for key in SETTINGS},
                sum(map(len, written.texts)),
                written.seconds,
                # Linux counts in KiB.
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )
            self._figures[column] += finish_figures(written.texts, self._options.nsamples)
            columns.append(column)
        # Last, for TensorFlow decides at the first product of all whether weights are kept ready,
        # and these are in float32.
        held_out = self._held_out(model)
        for column in columns:
            self._figures[column] += held_out.get(PEOPLE, [])
        if first:
            for column, figures in held_out.items():
                self._figures[column] += figures

    def _write(self, name: str, model: Model, asked: GenerateOptions) -> Written:
        hidden = None if self._progress else True
        with tqdm(desc=name, total=len(self._prompts), unit=" prompts", disable=hidden) as bar:
            return write(model, self._prompts, asked, bar.update)

    def _held_out(self, model: Model) -> dict[str, list[Figure]]:
        """Return the perplexity of the first text for each prompt, by column."""
        scorer, found = Scorer(model), {}
        for name, column in self._comparisons.items():
            scores = scorer.after_keywords(
                [one.record for some in column.texts for one in some[:1]]
            )
            self._note_too_long(scores, name, "the model")
            by_prompt = _regrouped(scores, [some[:1] for some in column.texts])
            found[name] = [
                perplexity_figure("held-out, per token", by_prompt),
                perplexity_figure("held-out, per word", by_prompt, column.words),
            ]
        return found

    def _note_too_long(self, scores: Sequence[Score | None], name: str, who: str) -> None:
        if too_long := scores.count(None):
            self.notes.append(f"{too_long:,} of the {name} texts are longer than {who} sees")

    def measure_texts(self) -> None:
        """Measure all columns by their texts alone."""
        options, prompts = self._options, self._prompts
        forms = self._forms
        if not forms.has_rules:
            self.notes.append(f"{options.spacy_model} can't tell inflections of keywords")
        seen = (
            [self._training.has_together(p.keywords) for p in prompts] if self._training else None
        )
        if options.nsamples == 1:
            self.notes.append("how texts for the same keywords differ needs --nsamples 2 or more")
        columns = self._columns
        data = self._data_lengths()
        quality = self._has_references()
        for name, column in columns.items():
            self._figures[name] += coverage_figures(column, prompts, forms, seen)
            self._figures[name] += diversity_figures(column)
            self._figures[name] += form_figures(column, prompts, forms, data)
            if quality:
                by_people = name in (PEOPLE, SHUFFLED)
                self._figures[name] += quality_figures(column, prompts, by_people=by_people)
        if self._training:
            found = likenesses(list(columns.values()), self._training)
            self._likenesses = dict(zip(columns, found, strict=True))
            for name in columns:
                self._figures[name] += novelty_figures(self._likenesses[name])

    def _has_references(self) -> bool:
        """Whether there are texts by several people about the same keywords; say about how many."""
        several = sum(len(prompt.people) > 1 for prompt in self._prompts)
        if not self._options.references_field or not several:
            need = "BLEU, ROUGE and CIDEr need a table with several texts about the same keywords"
            self.notes.append(f"{need}, and --references-field")
            return False
        if several < len(self._prompts):
            said = (
                "BLEU, ROUGE and CIDEr are those of the lists of keywords that have several texts"
            )
            self.notes.append(f"{said} by people: {several:,}")
        return True

    def _data_lengths(self) -> list[int]:
        """Return the lengths that texts should have: those learnt from, or else people's."""
        if self._training:
            return [len(text) for text in self._training.words]
        column = self._comparisons.get(PEOPLE)
        return _flat_lengths(column) if column else []

    def judge(self, judge: Judge) -> None:
        """Measure how likely another model finds the texts."""
        fair = dict.fromkeys(self._columns, [None] * len(self._prompts))
        if len(self._written) > 1:
            asked = [prompt.keywords for prompt in self._prompts]
            texts = [column.words for column in self._written.values()]
            places = covered_by_all(asked, texts, self._forms)
            # Of people's texts the first; these have all keywords as it is.
            people = [None if place is None else 0 for place in places[0]]
            fair = dict.fromkeys(self._columns, people) | dict(
                zip(self._written, places, strict=True)
            )
        for name, column in self._columns.items():
            scores = judge.alone([text for some in column.strings for text in some])
            self._note_too_long(scores, name, "the judge")
            by_prompt = _regrouped(scores, column.texts)
            self._figures[name] += judge_figures(column, by_prompt, judge, fair[name])

    def report(self, seconds: float) -> Report:
        """Return what was found."""
        options, columns = self._options, self._columns
        rows, left_out, definitions = compare(
            {name: self._figures[name] for name in columns}, list(self._written), options.seed
        )
        lengths = {name: _flat_lengths(column) for name, column in columns.items()}
        if self._training:
            lengths[TRAINING] = self._data_lengths()
        return Report(
            source=str(options.source),
            training=str(self._training_text) if self._training_text else None,
            judge=options.judge,
            seed=options.seed,
            prompts=len(self._prompts),
            nsamples=options.nsamples,
            models=self._works,
            comparisons=tuple(self._comparisons),
            rows=rows,
            corpus=len(corpus_groups(len(self._prompts))[0]),
            left_out=left_out,
            notes=list(dict.fromkeys(self.notes)),
            definitions=definitions,
            flagged={name: self._flagged(name) for name in self._likenesses if name != REPEATED},
            samples=list(self._samples()),
            lengths=lengths,
            similarities={
                name: [one.similarity for some in found for one in some]
                for name, found in self._likenesses.items()
            },
            seconds=seconds,
        )

    def _samples(self) -> Iterator[Sample]:
        for number, prompt in enumerate(self._prompts):
            texts = {name: column.strings[number] for name, column in self._columns.items()}
            missing = {
                name: [missing_keywords(prompt.keywords, words(text), self._forms) for text in some]
                for name, some in texts.items()
            }
            yield Sample(prompt.category, prompt.keywords, texts, missing)

    def _flagged(self, name: str) -> list[Flagged]:
        training = [text_of(record) for record in self._training.records] if self._training else []
        found = {}
        for texts, some in zip(self._columns[name].strings, self._likenesses[name], strict=True):
            for text, one in zip(texts, some, strict=True):
                if one.is_near and one.nearest:
                    near = training[one.nearest.number]
                    found[text] = Flagged(text, near, one.similarity, one.longest, one.copy)
        return sorted(found.values(), key=lambda one: -one.similarity)


def _flat_lengths(column: Column) -> list[int]:
    return [len(text) for some in column.words for text in some]


def _regrouped(
    scores: Sequence[Score | None], like: Sequence[Sequence[object]]
) -> list[list[Score | None]]:
    """Return flat scores in lists as long as those of `like`."""
    rest = iter(scores)
    return [[next(rest) for _ in some] for some in like]
