"""What is plotted, and that the same records give the same bytes."""

import math
import statistics
from types import SimpleNamespace

import matplotlib.style
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.pareto import front, pareto_data
from sbora_bench.analysis.rate_gains import RateScore
from sbora_bench.analysis.statistics import Summary
from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import layouts
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.metric import LOSS
from sbora_bench.report.collected import footprint_lines
from sbora_bench.report.figures import figures
from sbora_bench.report.many_methods import MANY, apart
from sbora_bench.report.outputs import figure_captions, figure_files
from sbora_bench.report.page import NARROW
from sbora_bench.report.plotting import STYLE, method_style, short
from sbora_bench.report.views import score_figure as view
from sbora_bench.report.views.footprint_figure import footprint_data, footprint_figure
from sbora_bench.report.views.rate_figure import RATE_CURVES, rate_data, rate_figure
from sbora_bench.report.views.score_figure import clusters, score_figure, score_points
from sbora_bench.report.views.training_figure import training_data
from sbora_bench.results.read import Results
from tests.factories.made_results import TRAINABLE, experiment, make_experiment, make_plan


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """An experiment with one table and the paper's footprint, drawn twice from nothing."""
    folders = []
    written = experiment() | {"paper_footprint": True}
    written["tables"] = {"arithmetic": written["tables"]["arithmetic"]}
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        plan, results = make_experiment(folder, written)
        header = "table,model,method,rank,trainable_parameters,total_parameters,adapter_bytes,reported_millions\n"
        row = "arithmetic,llama-7b,lora,32,56098816,6794514432,112197632,56.1\n"
        write_text(results / "paper_footprint.csv", header + row)
        kinds = "weights,adapter,gradients,optimizer,activations,logits,temporaries,peak"
        row = "commonsense,llama-7b,lora,32,2,256,8,1,1,2,9,3,1,25\n"
        write_text(results / "paper_memory.csv", f"table,model,method,rank,micro_batch,length,{kinds}\n{row}")
        collect(plan, results)
        figures(plan, results)
        folders.append(results)
    return plan, *folders


def test_exactly_the_files_listed_the_same_each_time(drawn):
    plan, one, two = drawn
    written = sorted(str(path.relative_to(one)) for path in (one / "figures").iterdir())
    assert written == sorted(figure_files(plan)) and len(written) == 12
    assert [name for name in written if (one / name).read_bytes() != (two / name).read_bytes()] == []


def test_svg_holds_no_date_and_png_no_version(drawn):
    plan, one, _ = drawn
    for name in figure_captions(plan):
        text = (one / f"figures/{name}.svg").read_text()
        assert "<dc:date>" not in text and text.rstrip().endswith("</svg>")
        assert b"matplotlib" not in (one / f"figures/{name}.png").read_bytes().lower()


def test_a_png_has_a_palette_near_its_colours(drawn):
    plan, one, _ = drawn
    with matplotlib.style.context(["default", STYLE]):
        colours = [
            [255 * part for part in to_rgb(method_style(plan, method)["color"])] for method in ("lora", "sbora-fa")
        ]
    with Image.open(one / "figures/score-arithmetic.png") as image:
        assert image.mode == "P" and image.info["dpi"] == pytest.approx((192, 192), rel=0.01)
        found = [colour for _, colour in image.convert("RGB").getcolors()]
    for colour in colours:
        assert min(max(abs(a - b) for a, b in zip(colour, other, strict=True)) for other in found) <= 6


def plotted(plan, results):
    return score_points(Results(plan, results), layouts(plan)[0])


def test_score_against_trainable_parameters(drawn):
    plan, results, _ = drawn
    rows = plotted(plan, results)
    assert [(row["panel"], row["method"], row["rank"]) for row in rows] == [
        ("LLaMA-7B: Average", "lora", 32),
        ("LLaMA-7B: Average", "dora", 32),
        ("LLaMA-7B: Average", "sbora-fa", 32),
        ("LLaMA-7B: Average", "sbora-fa", 64),
        ("Small <s>|&_%: Average", "lora", 32),
        ("LLaMA-7B: Average", "base", None),
        ("Small <s>|&_%: Average", "base", None),
    ]
    lora = rows[0]
    assert lora["parameters"] == TRAINABLE["lora", 32]
    assert lora["mean"] == pytest.approx(100 * (31 + 4 + 21) / 120)
    log_odds = [math.log((right + 0.5) / (120 - right + 0.5)) for right in (53, 56, 59)]
    high = statistics.mean(log_odds) + statistics.stdev(log_odds) * 4.302653 / 3**0.5
    assert lora["high"] == pytest.approx(100 / (1 + math.exp(-high)), rel=1e-6)
    assert rows[-1]["low"] is None  # the base is scored once
    assert (lora["seconds"], lora["peak"], rows[-1]["seconds"]) == (1.5, None, None)


def test_what_is_drawn_is_the_data(drawn):
    plan, results, _ = drawn
    rows = plotted(plan, results)
    with matplotlib.rc_context():
        axis = score_figure(plan, layouts(plan)[0], rows).axes[0]
    assert axis.get_xlabel() == "Trainable parameters" and axis.get_ylabel() == "Score, %"
    drawn_at = {bars.get_label(): [tuple(point) for point in bars[0].get_xydata()] for bars in axis.containers}
    for method in ("lora", "sbora-fa"):
        of_method = [row for row in rows if row["method"] == method and row["panel"].startswith("LLaMA")]
        assert drawn_at[method_style(plan, method)["label"]] == [(row["parameters"], row["mean"]) for row in of_method]
    ends = axis.containers[0][2][0].get_segments()[0][:, 1]  # LoRA's interval
    assert ends.tolist() == pytest.approx([rows[0]["low"], rows[0]["high"]])


@pytest.mark.parametrize(
    ("loss", "words"), [(0.9, "↑ Base, untuned: 0.9"), (0.1, "↓ Base, untuned: 0.1"), (0.65, ""), (0.59, "")]
)
def test_an_untuned_base_far_from_the_methods_stands_in_words(drawn, loss, words):
    """As a line it would take the picture: intervals of 0.53 to 0.58 nats would be a line too."""
    plan, results, _ = drawn
    rows = [dict(row, metric=LOSS) for row in plotted(plan, results) if row["panel"].startswith("LLaMA")]
    for row in rows:
        row |= {"mean": 0.55, "low": 0.53, "high": 0.58} if row["parameters"] else {"mean": loss}
    (axis,) = score_figure(plan, layouts(plan)[0], rows).axes
    bottom, top = axis.get_ylim()
    assert (bottom < loss < top) == (not words) and bottom < 0.53 and top > 0.58 and top - bottom < 0.2
    assert ("Base, untuned" in axis.get_legend_handles_labels()[1]) == (not words)
    assert [text.get_text() for text in axis.texts if "Base" in text.get_text()] == ([words] if words else [])


def test_of_many_methods_those_of_planned_comparisons_alone_have_a_colour(drawn, monkeypatch):
    plan, results, _ = drawn
    rows = [row for row in plotted(plan, results) if row["panel"].startswith("LLaMA")]
    monkeypatch.setattr(view, "apart", lambda *_: ["lora"])
    figure = score_figure(plan, layouts(plan)[0], rows)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["Base, untuned", "2 other methods", "LoRA"]
    (axis,) = figure.axes
    (lora,) = axis.containers
    assert lora[0].get_color() == method_style(plan, "lora", ["lora"])["color"]
    (grey,) = [line for line in axis.lines if line.get_label() == "2 other methods"]
    expected = [(row["parameters"], row["mean"]) for row in rows if row["parameters"] and row["method"] != "lora"]
    assert sorted(map(tuple, grey.get_xydata())) == sorted(expected), "at their own sizes, none moved aside"
    assert figure.get_figwidth() * 96 <= NARROW, "so that it stands beside the verdicts"


def test_many_methods_are_those_that_no_figure_tells_apart(drawn):
    plan, _, _ = drawn
    planned = SimpleNamespace(cells=[SimpleNamespace(method="sbora-fa"), SimpleNamespace(method="lora")])
    methods = {f"m{place}": None for place in range(MANY)}
    catalog = SimpleNamespace(methods={"lora": None, **methods, "sbora-fa": None})

    def of(comparisons):
        return SimpleNamespace(catalog=catalog, comparisons=lambda table: comparisons)

    assert apart(of([planned]), ["arithmetic"], catalog.methods) == ["lora", "sbora-fa"]
    assert apart(of([planned]), ["arithmetic"], methods) == [], "few enough"
    assert apart(of([]), ["arithmetic"], catalog.methods) == [], "none is compared"


def test_sixteen_methods_differ_in_grey(drawn):
    plan, _, _ = drawn
    among = [f"m{place}" for place in range(16)]
    methods = plan.catalog.methods | dict.fromkeys(among, plan.catalog.methods["lora"])
    many = Plan(plan.name, plan.experiment, plan.catalog.model_copy(update={"methods": methods}), plan.path)
    looks = [method_style(many, name, among) for name in among]
    assert len({(one["marker"], one["fillstyle"]) for one in looks}) == len(among)


def test_of_many_methods_rates_and_losses_are_of_the_compared_ones_in_one_panel():
    plan = load_plan("ladder")
    cells = [cell for cell in plan.tuned_cells("arithmetic") if cell.method in ("lora", "sbora-fa", "sbora-fb")]
    score = Summary(1, -0.2, None, None, None)
    rows = [RateScore(cell, 0.01, True, False, 1, 60, score, None) for cell in cells]
    assert len({cell.rank for cell in cells}) > 1
    points = rate_data(rows, plan, ["lora", "sbora-fa"])
    assert {point["panel"] for point in points} == {"Ladder S: held-out training rows"}
    assert {point["method"] for point in points} == {"lora", "sbora-fa"}
    assert len({point["panel"] for point in rate_data(rows, plan)}) > 1


def test_a_colour_that_comes_again_has_another_marker(drawn):
    plan, _, _ = drawn
    methods = plan.catalog.methods | {f"m{place}": plan.catalog.methods["lora"] for place in range(40)}
    many = Plan(plan.name, plan.experiment, plan.catalog.model_copy(update={"methods": methods}), plan.path)
    with matplotlib.rc_context():
        looks = {(method_style(many, name)["color"], method_style(many, name)["marker"]) for name in methods}
    assert len(looks) == len(methods)


def test_the_front_is_what_no_other_cell_beats():
    points = [(1, 10), (2, 20), (2, 15), (3, 20), (1, 10)]
    assert front(points, {(1, 2)}) == [True, True, False, False, True]
    assert front(points, set()) == [True, True, True, False, True]  # 15 may be 20: only a higher cost is sure
    assert front([(1, 10), (2, 20)], {(1, 0)}) == [True, True]
    assert front([], set()) == []


def test_pareto_panels_have_the_costs_that_are_known(drawn):
    plan, results, _ = drawn
    rows = [row for row in pareto_data(plotted(plan, results)) if row["panel"] == "LLaMA-7B: Average"]
    assert {row["of"] for row in rows} == {
        "Trainable parameters",
        "Training, seconds a run",
    }  # no peak is estimated here
    ahead = {(row["method"], row["rank"]) for row in rows if row["of"] == "Trainable parameters" and row["front"]}
    # DoRA and SBoRA at rank 64 score the same, DoRA for more; LoRA's two points less of SBoRA at rank 64, for as many
    # parameters, may be noise
    assert ahead == {("sbora-fa", 32), ("sbora-fa", 64), ("lora", 32)}
    assert {row["cost"] for row in rows if row["of"] == "Training, seconds a run"} == {1.5}


def test_ranks_are_written_once_where_points_stand_close():
    rows = [
        {"parameters": count, "rank": rank, "mean": 50.0, "high": high}
        for count, rank, high in [(100, 4, None), (1000, 8, 60.0), (1030, 16, 120.0)]
    ]
    assert clusters(rows) == [([4], 100, 50.0), ([8, 16], 1015, 100)]
    assert clusters([]) == []


def test_training_curves_are_means_and_ranges_of_the_seeds(drawn):
    plan, results, _ = drawn
    rows = [row for row in training_data(Results(plan, results), "arithmetic") if row["method"] == "dora"]
    assert [row["step"] for row in rows] == [1, 5, 10]
    assert {row["kind"] for row in rows} == {"training"}
    assert [rows[1][key] for key in ("low", "mean", "high")] == pytest.approx([0.6, 0.7, 0.8])


def test_footprint_bars(drawn):
    plan, results, _ = drawn
    rows = footprint_data(plan, layouts(plan)[0], footprint_lines(Results(plan, results)))
    assert [row["label"] for row in rows][:4] == ["LoRA r = 32", "DoRA r = 32", "SBoRA-FA r = 32", "SBoRA-FA r = 64"]
    assert rows[2]["parameters"] == TRAINABLE["sbora-fa", 32]
    assert (rows[2]["weights_bytes"], rows[2]["optimizer_bytes"], rows[2]["measured_peak_bytes"]) == (
        13_476_831_232,
        None,
        10**9 + 2,
    )


def test_nothing_run_is_drawn_as_such(tmp_path):
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    collect(plan, results)
    figures(plan, results)
    assert all((results / name).stat().st_size > 1000 for name in figure_files(plan))


def test_methods_differ_in_colour_marker_and_dash(drawn):
    plan = drawn[0]
    looks = [method_style(plan, method) for method in plan.catalog.methods]
    for key in ("color", "marker", "linestyle", "label"):
        assert len({str(style[key]) for style in looks}) == len(looks)


def test_the_readers_own_style_is_left_alone(drawn):
    assert matplotlib.rcParams["svg.hashsalt"] != "sbora-bench"


@pytest.mark.parametrize(("number", "text"), [(28_049_408, "28M"), (1_234, "1.23k"), (7, "7"), (6.7e9, "6.7G")])
def test_short_numbers(number, text):
    assert short(number) == text


def test_no_text_of_the_rate_curves_is_cut_off_or_runs_into_another():
    rates = [6.25e-4, 1.25e-3, 2.5e-3, 5e-3, 1e-2]
    rows = [
        {
            "panel": f"Ladder S, r = {rank}: held-out training rows",
            "method": "lora",
            "rate": rate,
            "picked": rate == 5e-3,
        }
        | {"mean": 0.2 + rate, "sd": 0.0, "loss": True}
        for rank in (4, 8, 16, 32)
        for rate in rates
    ]
    with matplotlib.style.context(["default", STYLE]):
        figure = rate_figure(load_plan("ladder"), rows)
        figure.draw_without_rendering()
        titles = [axis.title.get_window_extent() for axis in figure.axes]
        labels = [axis.yaxis.label.get_window_extent() for axis in figure.axes]
        ticks = [[tick.get_window_extent() for tick in axis.get_xticklabels()] for axis in figure.axes]
    assert all(title.x0 >= 0 and title.x1 <= figure.bbox.width for title in titles)
    assert not titles[0].overlaps(titles[1]) and not labels[0].overlaps(labels[2])
    assert not any(label.overlaps(title) for label in labels for title in titles)
    assert all(left.x1 < right.x0 for of_axis in ticks for left, right in zip(of_axis, of_axis[1:], strict=False))


@pytest.mark.parametrize(("highest", "scale"), [(1.0, "linear"), (8.5, "log")])
def test_a_rate_that_is_far_too_high_leaves_room_for_the_others(highest, scale):
    point = {"panel": "Ladder S", "method": "lora", "sd": 0.0, "loss": True, "picked": False}
    rows = [point | {"rate": 1e-3, "mean": 0.2, "picked": True}, point | {"rate": 4e-3, "mean": highest}]
    (axis,) = rate_figure(load_plan("ladder"), rows).axes
    assert axis.get_yscale() == scale and ("log scale" in axis.get_ylabel()) == (scale == "log")


def test_the_caption_of_rates_that_are_only_picked_names_the_loss_and_no_test_items():
    caption = RATE_CURVES.caption(load_plan("ladder"), "mmlu")
    assert caption == (
        "mmlu: loss of the gold answer against learning rate, on the training rows held out to pick the rate by. A ring"
        " marks the rate picked."
    )


def test_numbers_below_the_bars_of_long_names_stand_apart():
    mib = dict.fromkeys(("weights_bytes", "optimizer_bytes", "activation_bytes"), 2**24) | {"other_bytes": 0}
    rows = [
        {"panel": "Ladder S", "label": f"SBoRA-FA, index seed {seed} r = 16", "parameters": 18432, **mib}
        | {"measured_peak_bytes": 3 * 2**24}
        for seed in range(5)
    ]
    with matplotlib.style.context(["default", STYLE]):
        figure = footprint_figure(rows)
        figure.draw_without_rendering()
        for axis in figure.axes:
            inside = [tick for tick in axis.get_xticklabels() if 0 <= tick.get_position()[0] <= axis.get_xlim()[1]]
            ticks = [tick.get_window_extent() for tick in inside]
            assert len(ticks) > 1 and all(a.x1 < b.x0 for a, b in zip(ticks, ticks[1:], strict=False))
