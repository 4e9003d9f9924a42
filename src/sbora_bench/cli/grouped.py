"""The commands of `sbora-bench --help` in groups, in the order in which an experiment needs them."""

import click

GROUPS = {
    "An experiment": "init sizes plan validate prepare pretrain run finetune evaluate pick look status failures",
    "Its results": "collect tables figures report cards verify show compare compare-published publish",
    "One adapter": "score export regions",
    "Memory and cost": "footprint cell-footprint table-footprint paper-footprint publish-traces",
    "The paper and the catalog": "audit protocols schema",
}


class Grouped(click.Group):
    """A group whose help lists its commands under headings; a command that no heading names comes last."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        named = {title: names.split() for title, names in GROUPS.items()}
        grouped = {name for names in named.values() for name in names}
        named["Others"] = [name for name in self.list_commands(ctx) if name not in grouped]
        width = max(len(name) for name in self.commands)
        for title, names in named.items():
            limit = formatter.width - 6 - width
            rows = [(f"{name:{width}}", self.commands[name].get_short_help_str(limit)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
