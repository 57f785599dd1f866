"""The Grafana dashboard: valid, and every metric and label that it asks for is one that exists."""

import importlib.resources
import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stx.pipelines.telemetry.metrics import METRICS

TEXT = (Path(__file__).parents[2] / "infra/grafana/stx.json").read_text()
# Labels that Prometheus, or Ray, gives to Ray's own metrics.
RAY_LABELS = {"instance", "GpuIndex"}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Datasource(Part):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Target(Part):
    refId: str
    datasource: Datasource
    expr: str
    legendFormat: str
    format: Literal["table"] | None = None
    instant: bool = False


class GridPos(Part):
    x: int
    y: int
    w: int
    h: int


class Stacking(Part):
    mode: Literal["none", "normal", "percent"]


class Custom(Part):
    stacking: Stacking
    fillOpacity: int


class Defaults(Part):
    unit: Literal["short", "s", "percent", "percentunit"]
    min: float
    max: float | None = None
    custom: Custom | None = None


class FieldConfig(Part):
    defaults: Defaults
    overrides: list[Any]


class Reduce(Part):
    calcs: list[Literal["lastNotNull"]]


class StatOptions(Part):
    reduceOptions: Reduce


class Legend(Part):
    displayMode: Literal["list"]
    placement: Literal["bottom"]


class Tooltip(Part):
    mode: Literal["multi"]
    sort: Literal["desc"]


class LineOptions(Part):
    legend: Legend
    tooltip: Tooltip


class TableOptions(Part):
    showHeader: bool


class Panel(Part):
    id: int
    title: str
    description: str
    type: Literal["stat", "timeseries", "table"]
    datasource: Datasource
    gridPos: GridPos
    targets: list[Target]
    fieldConfig: FieldConfig
    options: StatOptions | LineOptions | TableOptions


class Choice(Part):
    text: list[str]
    value: list[str]


class VariableQuery(Part):
    query: str
    refId: str


class QueryVariable(Part):
    name: str
    type: Literal["query"]
    datasource: Datasource
    query: VariableQuery
    includeAll: bool
    multi: bool
    current: Choice
    refresh: Literal[1, 2]


class SourceVariable(Part):
    name: Literal["datasource"]
    type: Literal["datasource"]
    query: Literal["prometheus"]


class Templating(Part):
    list: list[SourceVariable | QueryVariable]


class TimeRange(Part):
    start: str = Field(alias="from")
    to: str


class Dashboard(Part):
    uid: str
    title: str
    tags: list[str]
    schemaVersion: int
    timezone: Literal["utc"]
    editable: bool
    refresh: str
    time: TimeRange
    templating: Templating
    panels: list[Panel]


def problems(text: str) -> list[str]:
    """What the dashboard asks for that neither stx nor Ray has."""
    board = json.loads(text)
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [each for each in board["templating"]["list"] if each["type"] == "query"]
    labels = {metric.name: {*metric.labels} for metric in METRICS}
    rays = ray_metrics()
    found = []
    for query in queries + [each["query"]["query"] for each in variables]:
        own = re.findall(r'__name__=~"\(ray_\)\?(\w+)"', query)
        foreign = re.findall(r"\b(ray_\w+)", query)
        found += [name for name in own if name not in labels]
        found += [name for name in foreign if name not in rays]
        known = RAY_LABELS.union(*(labels.get(name, ()) for name in own))
        asked = {
            label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")
        }
        asked |= set(re.findall(r"(\w+)=~", query)) - {"__name__"}
        asked |= set(re.findall(r"label_values\(.*, (\w+)\)", query))
        found += sorted(asked - known)
        found += sorted(
            set(re.findall(r"\$(\w+)", query))
            - {"__rate_interval", *(v["name"] for v in variables)}
        )
        if not own and not foreign:
            found.append(query)
    return found


def ray_metrics() -> set[str]:
    """Names of metrics that Ray's own dashboard asks for."""
    panels = importlib.resources.files("ray.dashboard.modules.metrics.dashboards")
    return set(re.findall(r"ray_\w+", (panels / "default_dashboard_panels.py").read_text()))


def keys(text: str) -> list[re.Match[str]]:
    return list(re.finditer(r'"(\w+)": ', text))


def test_it_has_the_form_of_a_dashboard():
    Dashboard.model_validate_json(TEXT)


def test_a_misspelt_key_is_found():
    accepted = []
    for key in keys(TEXT):
        try:
            Dashboard.model_validate_json(TEXT[: key.end(1)] + "x" + TEXT[key.end(1) :])
        except ValidationError:
            continue
        accepted.append(key[1])

    assert len(keys(TEXT)) > 300
    assert accepted == []


def test_every_metric_and_label_exists_and_every_metric_of_ours_is_shown():
    assert problems(TEXT) == []
    for metric in METRICS:
        assert metric.name in TEXT


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        *((metric.name, metric.name + "s") for metric in METRICS),
        ("ray_node_cpu_utilization", "ray_node_cpu_utilisation"),
        ("by (stage)", "by (phase)"),
        (r"output=~\"$output\"", r"outputs=~\"$output\""),
        (r"run=~\"$run\"", r"run=~\"$runs\""),
        (r"stx_run_info\"}, run)", r"stx_run_info\"}, runs)"),
    ],
)
def test_a_planted_typo_is_found(right, wrong):
    assert right in TEXT

    assert problems(TEXT.replace(right, wrong)) != []


def test_counters_are_shown_as_total_and_as_rate():
    queries = [
        target.expr
        for panel in Dashboard.model_validate_json(TEXT).panels
        for target in panel.targets
    ]

    for metric in (each for each in METRICS if each.grows):
        assert any(f'{metric.name}"' in each and "rate(" in each for each in queries)
    for metric in ("stx_rows_total", "stx_tokens_total", "stx_units_total"):
        assert any(f'{metric}"' in each and "rate(" not in each for each in queries)


def test_panels_do_not_overlap():
    panels = Dashboard.model_validate_json(TEXT).panels
    cells = [
        (x, y)
        for place in (panel.gridPos for panel in panels)
        for x in range(place.x, place.x + place.w)
        for y in range(place.y, place.y + place.h)
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel.id for panel in panels}) == len(panels)
