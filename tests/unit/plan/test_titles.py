"""A method's title with its rank, where its rank is anything."""

from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import ranked_title
from tests.factories.made_results import catalog, experiment, make_plan


def test_a_method_without_a_size_of_its_own_has_no_rank(tmp_path):
    entries = catalog()
    entries["methods"]["dora"]["arguments"] = {"target_modules": "$target_modules"}  # as IA3 and full fine-tuning
    plan = make_plan(tmp_path, experiment(), entries)
    assert ranked_title(plan, Cell("arithmetic", "llama-7b", "dora", 32)) == "DoRA"
    assert ranked_title(plan, Cell("arithmetic", "llama-7b", "lora", 32)) == "LoRA r = 32"
    assert ranked_title(plan, Cell("arithmetic", "llama-7b", "base", None)) == "Base, untuned"
