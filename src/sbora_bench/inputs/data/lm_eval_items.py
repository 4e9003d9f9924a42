"""The items of lm-eval's own tasks, prompts and all, as lm-eval itself would ask them: MMLU under protocol `clean`."""

import tempfile
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import write_json
from sbora_bench.inputs.data.lm_eval_tasks import quietly


def lm_eval_rows(name: str, task: str, shots: int, folder: Path) -> list[dict[str, str]]:
    """Rows of subject, input (the whole prompt) and output (the right choice), task after task of a group.

    `task` names a task, group or tag of lm-eval's `mmlu/default`; `folder` is its data set on disk. Raises UserError
    where there is no such task, or the folder isn't the data set.
    """
    import datasets
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    group = {"group": f"{name}-items", "task": [task], "dataset_path": str(folder), "num_fewshot": shots}
    rows = []
    with tempfile.TemporaryDirectory() as beside:  # what a group sets for its tasks, lm-eval takes from a file alone
        write_json(Path(beside) / "group.yaml", group)  # JSON is YAML
        manager = lm_eval.tasks.TaskManager(include_path=[str(own), beside], include_defaults=False)
        if task not in manager.task_index:
            raise UserError(f"data {name}: task: found {task!r}, allowed are the names in {own}")
        try:
            tasks = manager.load(group["group"])["tasks"]
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"data {name}: {folder}: lm-eval can't read it for {task} ({error})") from None
    for subject in tasks.values():
        with quietly():
            subject.build_all_requests()
        for request in subject.instances:
            if request.idx == 0:  # one of the choices; all have the same prompt
                answer = subject.doc_to_choice(request.doc)[subject.doc_to_target(request.doc)]
                rows.append({"subject": subject.config.dataset_name, "input": request.args[0], "output": answer})
    return rows
