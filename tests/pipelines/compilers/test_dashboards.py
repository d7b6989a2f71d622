"""Dashboards against the documented shape of a DashboardBody and against the catalogue. CloudWatch alone can draw them."""

import json
import re

import pytest

from components.shared.monitoring.catalogue import LISTED, METRICS, NAMESPACE, OWN, TRAINING, Emitter, listed
from pipelines.cli import cli, guarded
from pipelines.compilers.alarms import alarm
from pipelines.compilers.dashboards import line
from pipelines.compilers.monitoring import monitoring_files

FILES = monitoring_files()
PAGES = {name: json.loads(text) for name, text in FILES.items() if name.startswith("dashboards/")}
CHARTS = [(name, widget) for name, page in PAGES.items() for widget in page["widgets"]]
PROPERTIES = {
    "accountId", "annotations", "legend", "liveData", "metrics", "period", "region", "setPeriodToTimeRange", "sparkline",
    "stacked", "stat", "table", "timezone", "title", "view", "yAxis",
}  # fmt: skip
"""Of a metric widget, by the documentation."""
RENDERING = {"accountId", "color", "expression", "id", "label", "period", "region", "stat", "visible", "yAxis"}
SEARCH = re.compile(
    r"SEARCH\('\{\"([^\"]+)\"((?:,\"\w+\")+)\} MetricName=\"(\w+)\"', '(\w+)', (\d+)\)(?: / \d+)?"
)  # fmt: skip
PLACEHOLDERS = {"account", "name", "namespace", "partition", "region"}


def charted(widget):
    """(namespace, name, names of dimensions) of everything a chart shows."""
    for row in widget["properties"]["metrics"]:
        *words, last = row
        options = last if isinstance(last, dict) else {}
        words = words if options else row
        assert options.keys() <= RENDERING
        if "expression" in options:
            assert not words
            namespace, dimensions, name, _, _ = SEARCH.fullmatch(options["expression"]).groups()
            yield namespace, name, tuple(re.findall(r"\w+", dimensions))
        else:
            namespace, name, *pairs = words
            assert len(pairs) % 2 == 0
            yield namespace, name, tuple(pairs[::2])


def test_the_five_pages_are_there():
    assert PAGES.keys() == {f"dashboards/{name}.json" for name in ("pipeline", "cost", "training", "tiers", "quality")}
    assert FILES.keys() - PAGES.keys() == {"alarms.json"}


@pytest.mark.parametrize(("page", "widget"), CHARTS)
def test_every_metric_of_a_chart_is_in_the_catalogue(page, widget):
    for namespace, name, dimensions in charted(widget):
        assert dimensions in METRICS[namespace, name].dimensions, (page, name)


@pytest.mark.parametrize(("page", "widget"), CHARTS)
def test_a_chart_has_the_documented_shape(page, widget):
    properties = widget["properties"]
    assert widget.keys() == {"type", "x", "y", "width", "height", "properties"} and widget["type"] == "metric"
    assert widget["x"] >= 0 and widget["x"] + widget["width"] <= 24 and 1 <= widget["height"] <= 1000
    assert properties.keys() <= PROPERTIES and 1 <= len(properties["metrics"]) <= 500
    assert properties["view"] in {"timeSeries", "singleValue", "gauge", "bar", "pie", "table"}
    assert properties["period"] % 60 == 0
    assert re.fullmatch(r"Average|Maximum|Minimum|Sum|SampleCount|p\d+", properties["stat"])
    for mark in properties.get("annotations", {}).get("horizontal", []):
        assert isinstance(mark["label"], str) and isinstance(mark["value"], float)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_laid_out_and_small_enough(page):
    widgets = PAGES[page]["widgets"]
    cells = [
        (x, y)
        for widget in widgets
        for x in range(widget["x"], widget["x"] + widget["width"])
        for y in range(widget["y"], widget["y"] + widget["height"])
    ]
    assert len(cells) == len(set(cells)), "charts overlap"
    assert len(widgets) <= 500
    titles = [widget["properties"]["title"] for widget in widgets]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_every_placeholder_is_one_that_terraform_fills(text):
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= PLACEHOLDERS
    assert "%{" not in text, "Terraform would read a directive"


def test_nothing_of_ours_is_emitted_for_nobody():
    """Every metric of our own is charted."""
    shown = {(namespace, name) for _, widget in CHARTS for namespace, name, _ in charted(widget)}
    assert {(NAMESPACE, name) for name in OWN} <= shown
    assert {(metric.namespace, metric.name) for metric in TRAINING.values()} <= shown


def test_gpu_utilisation_is_charted_by_gpu():
    page = PAGES["dashboards/training.json"]
    (variable,) = page["variables"]
    divided = [
        row["expression"]
        for widget in page["widgets"]
        for row in widget["properties"]["metrics"][0]
        if variable["pattern"] in row["expression"]
    ]
    assert len(divided) == 2 and all("GPU" in expression for expression in divided)
    assert {item["value"]: item["label"] for item in variable["values"]} == {
        "/ 8": "ml.p5.48xlarge: 8 GPUs",
        "/ 4": "ml.g6.12xlarge: 4 GPUs",
    }
    assert json.dumps(page).count(variable["pattern"]) == len(divided) + 1, "nothing else is replaced"


def test_what_is_not_in_the_catalogue_cannot_be_charted_or_alarmed_on():
    with pytest.raises(ValueError, match="Failed has no dimensions"):
        line(OWN["Failed"], Stage="srl")
    with pytest.raises(KeyError):
        listed("AWS/States", "ExecutionsLost")
    with pytest.raises(KeyError):
        alarm("x", "Forgotten", says="", runbook="x", stat="Sum", period=60, above=0)


def test_a_listed_metric_names_the_page_that_lists_it():
    assert all(metric.emitter == Emitter.AWS for metric in LISTED.values())
    for metric in (*LISTED.values(), *TRAINING.values()):
        assert metric.source.startswith("https://docs.aws.amazon.com/"), metric.name


def test_srl_rlvr_compile_writes_them_where_terraform_looks(tmp_path, capsys):
    command = ["compile", "--target", "monitoring", "--out", str(tmp_path)]
    assert guarded(lambda: cli.main(args=command, prog_name="srl-rlvr", standalone_mode=False)) == 0
    assert "monitoring/alarms.json" in capsys.readouterr().out
    written = {str(f.relative_to(tmp_path / "monitoring")): f.read_text() for f in tmp_path.rglob("*.json")}
    assert written == FILES
