"""The commands of `sbora-bench --help` in groups, in the order in which an experiment needs them, with examples."""

import click

# heading -> command -> what stands behind it in its example
GROUPS = {
    "An experiment": {
        "init": "mine --model smollm2-135m --train my.jsonl --tasks questions.jsonl",
        "sizes": "-e experiments/mine.yaml",
        "plan": "-e paper --cost --device rtx-4090",
        "validate": "-e experiments/tiny.yaml",
        "prepare": "-e tiny --table arithmetic --output results/tiny/data/arithmetic",
        "pretrain": "-e ladder ladder-xs --output resources/models/ladder-xs",
        "run": "-e tiny arithmetic-ladder-xs-lora-r4-s0",
        "finetune": "-e tiny arithmetic-ladder-xs-lora-r4-s0",
        "evaluate": "-e tiny arithmetic-ladder-xs-lora-r4-s0",
        "extend": "-e ladder --table arithmetic --round 1",
        "pick": "-e ladder-index --table arithmetic",
        "look": "-e ladder-index --table arithmetic --look 1",
        "status": "-e tiny",
        "failures": "-e tiny",
    },
    "Its results": {
        "collect": "-e tiny",
        "tables": "-e tiny",
        "figures": "-e tiny",
        "report": "-e tiny",
        "cards": "-e tiny",
        "verify": "results/tiny",
        "show": "-e tiny arithmetic-ladder-xs-lora-r4-s0",
        "compare": "-e tiny arithmetic-ladder-xs-lora-r4-s0 arithmetic-ladder-xs-sbora-fa-r4-s0",
        "compare-published": "-e paper",
        "publish": "-e tiny",
    },
    "One adapter": {
        "score": "my-adapter --model smollm2-135m --suite arithmetic --output scored",
        "export": "my-adapter --to lora --output exported",
        "regions": "-e tiny arithmetic-ladder-xs-sbora-fa-r4-s0 --figure region.svg",
    },
    "Memory and cost": {
        "footprint": "--paper --output counts.csv",
        "cell-footprint": "llama-7b --method sbora-fa --rank 32 --device rtx-4090",
        "table-footprint": "arithmetic -e tiny",
        "paper-footprint": "counts.csv",
        "publish-traces": "",
    },
    "The paper and the catalog": {
        "audit": "--tables results/tiny/tables",
        "protocols": "--into docs/protocol.md",
        "schema": "",
    },
}
EXAMPLES = {name: arguments for examples in GROUPS.values() for name, arguments in examples.items()}


class Grouped(click.Group):
    """A group whose help lists its commands under headings; a command that no heading names comes last."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Its example below its help."""
        name = name or cmd.name or ""
        if name in EXAMPLES:
            cmd.epilog = f"\b\nExample: sbora-bench {name} {EXAMPLES[name]}".rstrip()
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their short help, a section a heading."""
        named = {title: list(examples) for title, examples in GROUPS.items()}
        named["Others"] = [name for name in self.list_commands(ctx) if name not in EXAMPLES]
        width = max(len(name) for name in self.commands)
        for title, names in named.items():
            limit = formatter.width - 6 - width
            rows = [(f"{name:{width}}", self.commands[name].get_short_help_str(limit)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
