"""What many runs of the report have in common, taken out of their sections to stand on the page once."""

from dataclasses import replace
from typing import Any

from sbora_bench.report.page_runs import Section

Facts = dict[str, list[tuple[str, str]]]


def without_shared_facts(sections: list[Section]) -> tuple[list[Section], dict[str, Facts]]:
    """The sections with the facts alone that tell a table's runs apart; and by table what all its tuned runs share.

    Every fact is in one of both.
    """
    by_table: dict[str, list[Facts]] = {}
    for section in sections:
        by_table.setdefault(section.table, []).append(section.facts)
    shared = {table: _of_all(facts) for table, facts in by_table.items()}
    own = [replace(section, facts=_less(section.facts, shared[section.table])) for section in sections]
    return own, {table: facts for table, facts in shared.items() if facts}


def _of_all(runs: list[Facts]) -> Facts:
    """What all runs say that say anything under a title; an untuned base has no settings but their hash."""
    shared: Facts = {}
    for title in dict.fromkeys(title for facts in runs for title in facts):
        stated = [facts[title] for facts in runs if len(facts.get(title, ())) > 1]
        if len(stated) > 1:
            shared[title] = [pair for pair in stated[0] if all(pair in pairs for pairs in stated[1:])]
    return {title: pairs for title, pairs in shared.items() if pairs}


def _less(facts: Facts, shared: Facts) -> Facts:
    own = {title: [pair for pair in pairs if pair not in shared.get(title, [])] for title, pairs in facts.items()}
    return {title: pairs for title, pairs in own.items() if pairs}


def questions_of(sections: list[Section]) -> tuple[list[Section], list[dict[str, Any]]]:
    """The sections with each sample's `question`, the anchor of its prompt; and the prompts, each once, in order."""
    questions: dict[tuple, dict[str, Any]] = {}
    named = []
    for section in sections:
        samples = []
        for sample in section.samples:
            key = sample["task"], sample["id"], sample["prompt"]
            question = {"anchor": f"question-{len(questions) + 1}"} | {
                name: sample[name] for name in ("task", "id", "prompt")
            }
            anchor = questions.setdefault(key, question)["anchor"]
            samples.append({name: value for name, value in sample.items() if name != "prompt"} | {"question": anchor})
        named.append(replace(section, samples=samples))
    return named, list(questions.values())
