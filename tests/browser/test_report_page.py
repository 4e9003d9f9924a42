"""The report in a headless Chromium: sorts, searches, fits a phone, runs nothing that a model wrote, asks for nothing.

With another page: `REPORT=results/ladder/report.html pytest tests/browser`; `SHOTS=folder` keeps screenshots.
"""

import os
from pathlib import Path

import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.files import read_jsonl, write_jsonl
from sbora_bench.report import audit
from sbora_bench.report.figures import figures
from sbora_bench.report.page import report
from sbora_bench.report.tables import tables
from tests.factories.made_results import catalog, experiment, make_experiment

SCRIPT = "<script>document.title = 'broken into'; alert(1)</script>"
IMAGE = '"><img src=x onerror="document.title = \'broken into\'">'
LINK = "</pre></dd></details><svg onload=alert(1)><a href=javascript:alert(1)>here</a>"
LORA = "arithmetic-llama-7b-lora-r32-s1"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The page of an experiment whose names and samples are hostile."""
    folder = tmp_path_factory.mktemp("browser")
    written, entries = experiment(), catalog()
    written |= {"title": f"By hand {SCRIPT}", "description": IMAGE}
    planned = {"a": "sbora-fa-r32", "b": "lora-r32", "equal": "rank", "margin": 0.01}
    written["tables"]["arithmetic"]["comparisons"] = [planned, planned | {"a": "dora-r32"}]
    entries["models"]["llama-s"]["title"] = f"Small {IMAGE}"
    entries["methods"]["dora"]["title"] = f"DoRA {SCRIPT}"
    entries["methods"]["sbora-fa"]["peft_type"] = "SBORA"
    plan, results = make_experiment(folder, written, entries)
    for run in plan.runs:
        _spoil(plan, results, run)
    collect(plan, results)
    tables(plan, results)
    figures(plan, results)
    audit.write_findings(list(audit.own_tables(results / "tables")), results)
    report(plan, results)
    return results / "report.html"


def _spoil(plan, results, run) -> None:
    """Model, prompt and answer of every sample are mark-up that would run if it could."""
    for task in plan.tasks(run.table):
        samples = results / "runs" / run.name / "samples" / f"{task}.jsonl"
        rows = read_jsonl(samples)
        for row in rows:
            row |= {"prompt": f"{row['prompt']} {LINK}", "response": f"{row['response']} {SCRIPT}{IMAGE}"}
            row["extracted"] = IMAGE
        write_jsonl(samples, rows)


@pytest.fixture(params=["made", *(["given"] if os.environ.get("REPORT") else [])])
def path(request):
    """The page made here; and one that is given, where one is."""
    return request.getfixturevalue("made") if request.param == "made" else Path(os.environ["REPORT"])


def column(page, table: str, place: int) -> list[str]:
    """The texts of a column's cells as they stand, hidden rows left out."""
    return page.locator(f"#table-{table} tbody tr:visible td:nth-child({place})").all_inner_texts()


def test_nothing_that_a_model_wrote_runs(visit, made):
    seen = visit(made)
    seen.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    seen.page.wait_for_timeout(300)
    assert seen.messages == [] and seen.page.title().startswith("By hand <script>")
    assert seen.page.locator("script").count() == 1
    assert seen.page.locator("img:not(.figure), a[href^=javascript], svg:not(.curve)").count() == 0
    assert SCRIPT in seen.page.locator(".sample pre").nth(1).text_content()
    # and were a mark-up to get in by a mistake, the page's policy would stop it
    with seen.page.expect_console_message(lambda message: "inline event handler" in message.text) as refused:
        bad = "<img src=x onerror='document.title = 1'>"
        seen.page.evaluate("(bad) => document.body.insertAdjacentHTML('beforeend', bad)", bad)
    assert "Content Security Policy" in refused.value.text
    assert seen.page.title().startswith("By hand")


def test_no_request_leaves_and_no_error_is_told(visit, path):
    seen = visit(path)
    assert seen.messages == []
    assert [url for url in seen.urls if not url.startswith("data:image/png;base64,")] == [path.resolve().as_uri()]


def test_a_table_is_sorted_by_a_click_and_by_a_key(visit, made):
    page = visit(made).page
    as_written = column(page, "runs", 3)
    title = page.locator("#table-runs th").nth(2)
    title.locator("button").click()
    assert title.get_attribute("aria-sort") == "ascending"
    scores = [float(text) for text in column(page, "runs", 3)]
    assert scores == sorted(scores) and scores != [float(text) for text in as_written]
    title.locator("button").press("Enter")
    assert title.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(page, "runs", 3)] == sorted(scores, reverse=True)
    title.locator("button").press("Space")
    assert title.get_attribute("aria-sort") is None and column(page, "runs", 3) == as_written
    updates = page.locator("#table-runs th").nth(3).locator("button")
    for _ in range(2):  # what has no number stays last, either way
        updates.click()
        assert column(page, "runs", 4)[-4:] == ["–"] * 4
    page.locator("#table-arithmetic th").nth(4).locator("button").click()
    assert [text.split()[0] for text in column(page, "arithmetic", 5)] == [
        "5.0",
        "5.0",
        "32.5",
        "77.5",
        "77.5",
        "80.0",
        "85.0",
    ]


def test_every_row_has_a_link_of_its_own(visit, path):
    page = visit(path).page
    names = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(set(names)) == len(names)
    row = page.locator("#table-runs tbody tr").nth(3)
    assert row.get_attribute("id").startswith("row-runs-")
    link = row.locator("a.of-row")
    link.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith(f"#{row.get_attribute('id')}") and row.evaluate("each => each.matches(':target')")


def test_rows_and_runs_are_searched(visit, made):
    page = visit(made).page
    every = column(page, "runs", 1)
    box = page.locator("#table-runs .search input")
    box.fill("LORA s1")
    some = [name for name in every if "lora" in name and "s1" in name]
    assert column(page, "runs", 1) == some and 0 < len(some) < len(every)
    assert page.locator("#table-runs .search output").inner_text() == f"{len(some)} of {len(every)}"
    box.fill("")
    assert column(page, "runs", 1) == every
    page.locator("#runs > .search input").fill(LORA)
    assert page.locator("details.run:visible").count() == 1


def test_a_run_opens_from_the_table_and_shows_wrong_samples_only(visit, made):
    page = visit(made).page
    page.locator("#table-runs a", has_text=LORA).click()
    run = page.locator(f"#run-{LORA}")
    assert run.evaluate("each => each.open")
    run.locator("details.samples > summary").click()
    right, wrong = run.locator(".sample.right"), run.locator(".sample.wrong")
    assert right.first.is_visible() and wrong.first.is_visible()
    run.locator(".only-wrong").focus()
    page.keyboard.press("Space")
    assert not right.first.is_visible() and wrong.first.is_visible()
    assert run.locator("svg.curve").is_visible()
    prompt = page.locator(wrong.first.locator("a").get_attribute("href"))
    assert not prompt.locator("pre").is_visible()
    wrong.first.locator("a").click()
    assert prompt.locator("pre").is_visible()


def test_the_first_screen_answers(visit, path):
    page = visit(path, 1280, 800).page
    first = page.locator("#answer .first")
    drawn = first.locator("figure img")
    assert drawn.first.get_attribute("alt").startswith("The planned differences") and drawn.count() >= 2
    assert all(drawn.nth(place).bounding_box()["y"] < 600 for place in range(2))
    assert first.locator(".said").bounding_box()["y"] < 300
    assert "planned comparisons are decided" in page.locator("#answer .summary").inner_text()
    undecided = first.locator(".said details")
    assert not undecided.locator("li").first.is_visible()
    undecided.locator("summary").click()
    assert undecided.locator("li").first.is_visible() and "undecided" in undecided.locator("li").first.inner_text()


def test_narrow_score_figures_stand_wholly_beside_the_forest(visit, path):
    page = visit(path, 1280, 800).page
    if not page.locator(".first.thirds").count():
        pytest.skip("this page's score figures have several panels")
    score = page.locator("#answer .scores img").first.bounding_box()
    forest = page.locator("#figure-forest img").bounding_box()
    assert score["x"] > forest["x"] + forest["width"] and score["y"] + score["height"] <= 800
    assert forest["y"] + forest["height"] <= 800
    said = page.locator(".said").bounding_box()
    assert forest["x"] + forest["width"] <= said["x"] and said["x"] + said["width"] <= score["x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_part_of_the_page_is_wider_than_the_screen(visit, path, width, scheme):
    page = visit(path, width, 844, scheme).page
    shots = os.environ.get("SHOTS")
    if shots:
        page.screenshot(path=Path(shots) / f"{width}-{scheme}.png")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(ink, paper) > 7
    faint = page.evaluate("getComputedStyle(document.querySelector('.note')).color")
    assert contrast(faint, paper) > 4.5
    assert (luminance(paper) < 0.1) == (scheme == "dark")


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast of two colours (WCAG 2.2)."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_every_control_is_reached_by_the_keyboard_and_has_a_name(visit, made):
    page = visit(made).page
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input')]"
        ".filter((each) => !(each.labels?.[0] || each).textContent.trim() || each.tabIndex < 0).length"
    )
    assert nameless == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('nav') !== null")  # the sections, before all else
    page.locator("#tables figcaption .permalink").first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("BUTTON", "DIV")


def test_on_paper_nothing_is_cut_off_and_no_control_is_printed(visit, made):
    page = visit(made).page
    page.emulate_media(media="print")
    assert not page.locator(".search, nav").first.is_visible()
    assert page.locator("#table-arithmetic .scroll").evaluate("each => getComputedStyle(each).overflowX") == "visible"
    assert page.locator("#answer .first details li").first.is_visible()  # the undecided ones, too
    page.set_viewport_size({"width": 720, "height": 1000})  # A4 between a browser's own margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_on_a_phone_the_answer_s_figures_fit_and_others_scroll_by_themselves(visit, path):
    page = visit(path, 390, 844).page
    assert page.locator("#figure-forest img").bounding_box()["width"] <= 390
    assert page.locator("#figure-forest").bounding_box()["y"] < page.locator(".said").bounding_box()["y"]
    for image in page.locator("#figures img").all():
        assert image.bounding_box()["width"] == int(image.get_attribute("width"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_search_takes_any_minus_and_spacing(visit, made):
    page = visit(made).page
    box = page.locator("#table-verdicts .search input")
    for words in ("r=32 dora", "R = 32 DoRA", "r =32 −", "r=32 -"):
        box.fill(words)
        shown = page.locator("#table-verdicts tbody tr:visible").count()
        assert 0 < shown <= 2, words
    box.fill("no such")
    assert page.locator("#table-verdicts .search output").inner_text() == "0 of 2"


def test_a_link_to_a_row_shows_it_though_a_search_left_it_out_and_a_broken_link_does_nothing(visit, made):
    seen = visit(made)
    row = seen.page.locator("#table-runs tbody tr").nth(3)
    seen.page.locator("#table-runs .search input").fill("no such")
    assert not row.is_visible()
    seen.page.evaluate("(name) => { location.hash = name; }", row.get_attribute("id"))
    row.wait_for(state="visible")
    seen.page.evaluate("location.hash = '%2'")
    seen.page.evaluate("location.hash = 'nowhere'")
    assert seen.messages == []


def test_a_table_is_copied_as_latex(visit, made):
    page = visit(made).page
    figure = page.locator("#table-arithmetic")
    figure.locator("details.latex summary").click()
    button = figure.locator("details.latex button")
    button.click()
    assert button.inner_text() == "Copied"
    copied = page.evaluate("getSelection().toString()")
    assert copied.strip() == (made.parent / "tables/arithmetic.tex").read_text().strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_can_be_read(visit, path, scheme):
    page = visit(path, scheme=scheme).page
    shown = page.evaluate(
        "['a', '.note', '.tone.better', '.tone.worse', '.tone.equivalent', '.tone.undecided', 'summary']"
        ".map((of) => document.querySelector(of)).filter(Boolean).map((each) => getComputedStyle(each).color)"
    )
    papers = page.evaluate(
        "['--paper', '--tint'].map((name) => { document.body.style.color = `var(${name})`;"
        " return getComputedStyle(document.body).color; })"
    )
    assert len(shown) >= 5
    assert min(contrast(ink, paper) for ink in shown for paper in papers) > 4.5  # WCAG AA
