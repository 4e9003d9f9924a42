"""A table as data, and its four spellings: Markdown, LaTeX (booktabs), HTML and CSV. Names are escaped in each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Text:
    """What a place of a table says: `text`, bold or not, and further lines below it; HTML shows the `interval` too.

    `tone`: the verdict that the text is, which HTML gives a colour and an arrow.
    """

    text: str
    bold: bool = False
    below: tuple[str, ...] = ()
    interval: str = ""
    tone: str = ""


@dataclass(frozen=True)
class PrintedTable:
    """A table as data: `groups` are blocks of rows with a rule between; `csv` is header and rows of numbers."""

    name: str
    title: str
    header: list[str]
    groups: list[list[list[Text]]]
    notes: list[str]
    csv: list[list[Any]] = field(default_factory=list)
    text_columns: int = 1

    @property
    def has_intervals(self) -> bool:
        """Whether any text has an interval below it."""
        return any(cell.interval for group in self.groups for row in group for cell in row)

    @property
    def anchors(self) -> list[list[str]]:
        """Of each row the name that a link to it has: the table's, and as many leading cells as tell all rows apart."""
        rows = [[_slug(cell.text) for cell in row] for group in self.groups for row in group]
        columns = next(
            (
                count
                for count in range(self.text_columns, len(self.header) + 1)
                if len({tuple(row[:count]) for row in rows}) == len(rows)
            ),
            None,
        )
        names = iter(
            "-".join(["row", self.name, *(row[:columns] if columns else [str(place)])])
            for place, row in enumerate(rows, start=1)
        )
        return [[next(names) for _ in group] for group in self.groups]


def _slug(text: str) -> str:
    """A text as part of an address: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


WIDE = 5  # columns that a line of text has room for
MARKS = "ᵃᵇᶜᵈᵉᶠ"  # of footnotes

_MARKDOWN = str.maketrans({char: "\\" + char for char in "\\|*_`[]"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_LATEX = str.maketrans(
    {char: "\\" + char for char in "{}$&#%_"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "≥": r"$\geq$"}
    | {mark: rf"\textsuperscript{{{letter}}}" for mark, letter in zip(MARKS, "abcdef", strict=True)}
)


def markdown_text(text: str) -> str:
    """Text in which nothing is Markdown, HTML or the end of a table's cell."""
    return " ".join(text.split()).translate(_MARKDOWN)


def latex_text(text: str) -> str:
    """Text in which nothing is a TeX command; nor, after the end of a line, an argument of that."""
    words = " ".join(text.split())
    return ("{}" if words.startswith(("[", "*")) else "") + words.translate(_LATEX)


def markdown(table: PrintedTable) -> str:
    """The table with its title as a heading and its notes below, as GitHub reads it."""

    def spell(cell: Text) -> str:
        text = markdown_text(cell.text)
        text = f"**{text}**" if cell.bold else text
        return "<br>".join([text, *map(markdown_text, cell.below)])

    rules = ["---"] * table.text_columns + ["---:"] * (len(table.header) - table.text_columns)
    lines = [[markdown_text(title) for title in table.header], rules]
    lines += [[spell(cell) for cell in row] for group in table.groups for row in group]
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = "".join(f"\n{markdown_text(note)}\n" for note in table.notes)
    return f"### {markdown_text(table.title)}\n\n{body}{notes}"


def latex(table: PrintedTable) -> str:
    """A `table` environment for \\input; the preamble needs booktabs. With graphicx too, a wide table fits the line."""

    def spell(cell: Text) -> str:
        text = latex_text(cell.text)
        text = rf"\textbf{{{text}}}" if cell.bold else text
        lines = " \\\\ ".join([text, *map(latex_text, cell.below)])
        return rf"\shortstack[r]{{{lines}}}" if cell.below else text

    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    body = "\\midrule\n".join(
        "".join(" & ".join(spell(cell) for cell in row) + " \\\\\n" for row in group) for group in table.groups
    )
    notes = "".join(f"\\par {latex_text(note)}\n" for note in table.notes)
    header = " & ".join(latex_text(title) for title in table.header)
    tabular = (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}"
    )
    if len(table.header) > WIDE:
        tabular = f"\\providecommand{{\\resizebox}}[3]{{#3}}\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular}}}"
    return (
        "% \\usepackage{booktabs} % and graphicx\n"
        "\\begin{table}\n\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{latex_text(table.title)}}}\n\\label{{tab:{table.name}}}\n"
        f"{tabular}\n{notes}\\end{{table}}\n"
    )


@cache
def environment() -> "Environment":
    """Jinja on the templates beside this module: everything escaped, an unknown name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def html(table: PrintedTable) -> str:
    """A page of its own with the table."""
    return environment().get_template("table.html").render(table=table)


def csv(numbers: list[list[Any]]) -> str:
    """Header and rows as CSV: fractions with six decimals, yes and no, nothing for None."""
    import pandas as pd

    header, *rows = [[_number(value) for value in row] for row in numbers]
    return pd.DataFrame(rows, columns=header, dtype="string").to_csv(index=False, lineterminator="\n")


def _number(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)


def write_table(table: PrintedTable, folder: Path, formats: Sequence[str] = ("md", "csv", "tex", "html")) -> None:
    """Write `folder/<name>.<format>` for each of the formats."""
    for suffix in formats:
        write_text(folder / f"{table.name}.{suffix}", SPELLINGS[suffix](table))


def csv_of(table: PrintedTable) -> str:
    """The numbers of a table as CSV."""
    return csv(table.csv)


SPELLINGS: dict[str, Callable[[PrintedTable], str]] = {"md": markdown, "tex": latex, "html": html, "csv": csv_of}
