"""What of an experiment's data and tasks can't work, looked for before anything runs: a line a problem.

Reads what is at hand and downloads nothing: own files, files below SBORA_DATA_ROOT or downloaded before, the synthetic
sets, and tokenizers of models that are prepared or lie in a folder. lm-eval is imported for own templates alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of
from sbora_bench.hub import DOWNLOADS, Unreachable
from sbora_bench.inputs.check_items import asks_nothing, built_in_problem, never_right, no_gold
from sbora_bench.inputs.data import lm_eval_tasks
from sbora_bench.inputs.data.chat import ARGUMENTS
from sbora_bench.inputs.data.contamination import asked_in, trained_questions
from sbora_bench.inputs.data.examples import Example, check_subjects
from sbora_bench.inputs.data.prompts import TEMPLATES, prompt_of, prompt_of_items
from sbora_bench.inputs.data.sources import place_of, read_examples
from sbora_bench.inputs.models.sources import Folder, source_of
from sbora_bench.inputs.models.weights import check_parts
from sbora_bench.inputs.prepare import NO_LABELS, Columns, labels_of, task_row, training_row
from sbora_bench.inputs.tasks.named_columns import check_held
from sbora_bench.inputs.tasks.templates import config_in
from sbora_bench.inputs.token_counts import Tokenizer, longest_of, shortest_of, tokenizer_of, too_long
from sbora_bench.plan.data_entries import FileData, HubData, LmEvalData, OwnData
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.protocol import Protocol


def data_problems(plan: Plan) -> list[str]:
    """Every problem of the experiment's data and tasks, each one line: file, key, what was found, what to do."""
    check = _Check(plan)
    return list(dict.fromkeys(problem for table in plan.experiment.tables for problem in check.table(table)))


class _Check:
    """The checks of a plan's tables; each data set is read once, each task tried once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.read: dict[str, list[Example] | UserError | None] = {}
        self.questions: dict[str, frozenset[str]] = {}
        self.tried: dict[str, str] = {}
        models = {model for table in plan.experiment.tables for model in self.models(table)}
        self.tokenizers: dict[str, Tokenizer | None] = {}
        self.spoilt: dict[str, str] = {}  # model -> what is wrong with its folder
        for model in sorted(models):
            try:
                source = source_of(model, plan.catalog.models[model])
                if isinstance(source, Folder):
                    check_parts(Path(source.settings.path))
                tokenizer = self.tokenizers[model] = tokenizer_of(model, plan.catalog.models[model])
                if tokenizer is not None:
                    tokenizer.lengths(["a"])
            except UserError as error:
                self.tokenizers[model], self.spoilt[model] = None, str(error)

    def table(self, table: str) -> Iterator[str]:
        entry, where = self.plan.experiment.tables[table], f"{self.plan.path}: tables.{table}"
        for model in self.models(table):
            if model in self.spoilt:
                yield f"{where}.grids: model {model}: {self.spoilt[model]}"
        training = self.rows(entry.train)
        if isinstance(training, UserError):
            yield f"{where}.train: {training}"
        elif training is not None:
            yield from self.training(table, training)
        for task, name in self.plan.items(table).items():
            items = self.rows(name)
            if isinstance(items, UserError):
                if not (isinstance(items, Unreachable) and entry.missing == "skip"):
                    yield f"{where}: task {task}: {items}"
            elif items is not None:
                yield from self.task(table, task, name, items)

    def trained_on(self, table: str) -> frozenset[str]:
        """The questions of a table's training set; none where it can't be read or isn't at hand."""
        name = self.plan.experiment.tables[table].train
        if name not in self.questions:
            rows = self.rows(name)
            self.questions[name] = trained_questions(rows if isinstance(rows, list) else [])
        return self.questions[name]

    def rows(self, name: str) -> list[Example] | UserError | None:
        """A data entry's examples, or why they can't be read; None where they aren't at hand."""
        if name not in self.read:
            try:
                entry = self.plan.catalog.data[name]
                self.read[name] = read_examples(name, entry) if at_hand(entry) else None
            except UserError as error:
                self.read[name] = error
        return self.read[name]

    def training(self, table: str, rows: list[Example]) -> Iterator[str]:
        entry, protocol = self.plan.experiment.tables[table], self.plan.protocol(table)
        where = f"{self.plan.path}: tables.{table}"
        if not rows:
            yield f"{where}.train: data {entry.train} has no row; give a training set with rows"
            return
        if protocol.validation_rows >= len(rows):
            yield (
                f"{where}.protocol: validation_rows: found {protocol.validation_rows:,}, and data {entry.train} has"
                f" {len(rows):,} rows, of which some must be left to train on; lower it under `overrides`"
            )
        if entry.learning_rates and entry.validation_items + protocol.validation_rows >= len(rows):
            yield (
                f"{where}.validation_items: found {entry.validation_items:,}, and data {entry.train} has {len(rows):,}"
                " rows, of which some must be left to train on; lower it"
            )
        data = self.plan.catalog.data[entry.train]
        empty = next((index for index, row in enumerate(rows) if not row["output"].strip()), None)
        if isinstance(data, OwnData) and protocol.loss_on == "answer" and empty is not None:
            yield (
                f"{where}.train: {place_of(entry.train, data, empty)}: output: found {rows[empty]['output']!r}, allowed"
                " a text, which is what is learned; give the row an answer, or leave it out"
            )
        prompt = prompt_of(self.plan.catalog, protocol.train_prompt)
        try:
            if entry.learning_rates:  # some rows are scored
                check_subjects(rows, f"data {entry.train}")
            encoded = [training_row(row, prompt) for row in rows]
        except UserError as error:
            yield f"{where}.train: {error}"
            return
        yield from self.training_lengths(table, encoded)

    def training_lengths(self, table: str, rows: list[dict[str, Any]]) -> Iterator[str]:
        """Rows as training encodes them go through each model whose tokenizer is at hand."""
        entry, protocol = self.plan.experiment.tables[table], self.plan.protocol(table)
        where = f"{self.plan.path}: tables.{table}"
        for model in self.models(table):
            tokenizer = self.tokenizers[model]
            if tokenizer is None:
                continue
            yield from self.chat_problem(rows, protocol.train_prompt, model, f"{where}.protocol: train_prompt")
            if problem := too_long(rows, tokenizer, protocol):
                tokens, cure = problem
                yield (
                    f"{where}.train: {'a row' if protocol.too_long == 'fail' else 'no row'} of data {entry.train}"
                    f" {tokens} tokens of {model} and max_length is {protocol.max_length:,}; {cure}"
                )
            texts = [row["prompt"] + row["response"] for row in rows]
            longest = min(longest_of(texts, tokenizer), protocol.max_length)
            if tokenizer.positions and longest > tokenizer.positions:
                yield (
                    f"{where}.train: data {entry.train} has rows of {longest:,} tokens and model {model} has"
                    f" {tokenizer.positions:,} positions; set max_length: {tokenizer.positions} under `overrides`"
                )

    def task(self, table: str, task: str, name: str, items: list[Example]) -> Iterator[str]:
        plan, where = self.plan, f"{self.plan.path}: tables.{table}: task {task}"
        protocol = plan.protocol(table, plan.scored(table)[task])
        if not items:
            yield f"{where}: data {name} has no item; give one with items"
            return
        drops = plan.experiment.tables[table].contaminated == "drop"
        if drops and len(asked_in(items, self.trained_on(table))) == len(items):
            yield (
                f"{where}: data {name}: the question of every item is in the training set, and contaminated is drop:"
                " none is left to score; give other items, or say contaminated: keep"
            )
            return
        config, entry = config_in(plan, table, task), plan.catalog.tasks[task]
        own = entry.own_template() is not None
        prompt = prompt_of_items(plan.catalog, name, protocol.score_prompt)
        try:
            check_subjects(items, f"data {name}")
            columns = Columns(own, plan.gold(table))
            rows = [task_row(index, item, prompt, None, columns) for index, item in enumerate(items)]
        except UserError as error:
            yield f"{where}: {error}"
            return
        bare = [row for row, item in enumerate(items, 1) if not labels_of(item)]
        if bare and plan.answer_by(table, task) == "label":
            yield f"{where}: data {name}: row {bare[0]}: {NO_LABELS}"
            return
        if plan.gold(table) and (problem := no_gold(items, isinstance(plan.catalog.data[name], OwnData))):
            yield f"{where}: data {name}: {problem}"
            return
        if not entry.lm_eval:
            try:
                check_held(config, rows)
            except UserError as error:
                yield f"{where}: data {name}: {error}"
                return
        read = not own and not entry.lm_eval and plan.answer_by(table, task) == "template"
        by_template = isinstance(plan.catalog.data[name], OwnData) and protocol.score_prompt in TEMPLATES
        needs_question = by_template and config["output_type"] == "generate_until"
        if (
            problem := self.tries(config, rows)
            if own or entry.lm_eval
            else built_in_problem(config, rows, entry.metrics)
        ):
            yield f"{where}: {problem}"
        elif read and (problem := never_right(config, items) or (asks_nothing(items) if needs_question else "")):
            yield f"{where}: data {name}: {problem}"
        if own and config.get("doc_to_text") != "prompt":
            return  # the question is more than the prompt
        room = config.get("generation_kwargs", {}).get("max_gen_toks", 0)
        prompts, gold = [row["prompt"] for row in rows], [row["gold"] for row in rows] if plan.gold(table) else []
        for model in self.models(table):
            yield from self.chat_problem(rows, protocol.score_prompt, model, f"{where}: score_prompt")
            yield from self.scored_lengths(model, protocol, prompts, gold, room, f"{where}: data {name}")

    def scored_lengths(
        self, model: str, protocol: Protocol, prompts: list[Any], gold: list[str], room: int, where: str
    ) -> Iterator[str]:
        """Prompts with `room` new tokens behind them, and right answers, go through a model at hand."""
        tokenizer = self.tokenizers[model]
        if tokenizer is None or not tokenizer.positions:
            return
        most = min(protocol.score_max_length, tokenizer.positions)
        longest_gold = longest_of(gold, tokenizer) if gold else 0
        if longest_gold >= most:
            yield (
                f"{where} has outputs of {longest_gold:,} tokens, whose loss is taken, and {most:,} tokens go through"
                f" model {model} at most; shorten or leave out those items"
            )
        longest = min(longest_of(prompts, tokenizer), protocol.score_max_length - room)
        if longest + room > tokenizer.positions:
            new = f" and up to {room:,} new ones follow" if room else ""
            cure = f"set score_max_length: {tokenizer.positions} under `overrides` (longer prompts are cut)"
            if room and shortest_of(prompts, tokenizer) + room > tokenizer.positions:  # each would be cut
                cure = "lower max_new_tokens under `overrides`"
            yield (
                f"{where} has prompts of {longest:,} tokens{new}, and model {model} has {tokenizer.positions:,}"
                f" positions; {cure}, or shorten them"
            )

    def chat_problem(self, rows: list[dict[str, Any]], name: str, model: str, where: str) -> Iterator[str]:
        """The problem of a chat prompt for a model whose tokenizer is at hand and has no template that takes it."""
        tokenizer = self.tokenizers[model]
        if ARGUMENTS in rows[0] and tokenizer is not None:
            try:
                tokenizer.check_chat(rows)
            except UserError as error:
                yield f"{where}: {name}: model {model}: {error}"

    def tries(self, config: dict[str, Any], rows: list[dict[str, Any]]) -> str:
        from sbora_bench.inputs.tasks.trial import try_task

        metrics = self.plan.catalog.tasks[config["task"]].metrics
        key = hash_of([config, {name: one.model_dump() for name, one in metrics.items()}, rows])
        if key not in self.tried:
            self.tried[key] = ""
            try:
                try_task(config, rows, metrics)
            except UserError as error:
                self.tried[key] = str(error)
        return self.tried[key]

    def models(self, table: str) -> list[str]:
        return list(dict.fromkeys(m for grid in self.plan.experiment.tables[table].grids for m in grid.models))


def at_hand(entry: Any) -> bool:
    """Whether a data entry can be read without a download and without writing anything."""
    if isinstance(entry, HubData):
        return False
    if isinstance(entry, LmEvalData):
        return lm_eval_tasks.data_at_hand(entry)
    if not isinstance(entry, FileData):
        return True
    root = os.environ.get("SBORA_DATA_ROOT")
    return (Path(root) / entry.path if root and not entry.stand_in else DOWNLOADS / entry.path).is_file()
