"""Hooks of mkdocs: the site has the figures and pages of `results/published/` that its pages link to, though they lie
outside of `docs/`.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
LINK = re.compile(r"\]\(\.\./results/published/([^)\s]+\.(?:html|svg))\)")


def on_files(files: Any, config: Any) -> Any:
    """All of mkdocs' files, and those of PUBLISHED below `published/`."""
    for path in sorted(PUBLISHED.rglob("*")):
        if path.suffix in (".html", ".svg"):
            place = f"published/{path.relative_to(PUBLISHED).as_posix()}"
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's text, its links to such files as the site has them."""
    return LINK.sub(r"](published/\1)", markdown)
