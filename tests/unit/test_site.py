"""The site has every published figure and page that the documents link to."""

import importlib.util
import re

from mkdocs.config import load_config
from mkdocs.structure.files import Files

from tests.factories.shipped import ROOT


def test_links_to_what_is_published_lead_to_files_of_the_site(tmp_path):
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins._current_plugin = "site_hooks"  # as mkdocs says while it calls one
    paths = {file.src_uri for file in hooks.on_files(Files([]), config)}
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    links = re.findall(r"\]\((published/[^)]+)\)", hooks.on_page_markdown(text))
    assert "published/ladder/report.html" in links and len(links) >= 3 and set(links) <= paths
