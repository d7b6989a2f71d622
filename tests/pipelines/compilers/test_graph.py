"""The picture of a definition: well-formed, complete, without overlaps, and the same every time."""

from xml.etree import ElementTree

from pipelines.compilers import graph
from pipelines.compilers.sagemaker_checks import all_steps

SVG = "{http://www.w3.org/2000/svg}"


def test_every_step_is_drawn_once_and_inside(sagemaker_pipeline):
    root = ElementTree.fromstring(graph.to_svg(sagemaker_pipeline.name, sagemaker_pipeline.definition))
    left, top, width, height = map(float, root.get("viewBox").split())
    boxes = [
        (float(box.get("x")), float(box.get("y")), float(box.get("width")), float(box.get("height")))
        for box in root.iterfind(f"{SVG}g/{SVG}rect")
    ]
    titles = [text.text for text in root.iterfind(f"{SVG}g/{SVG}text[@font-weight='600']")]
    steps = list(all_steps(sagemaker_pipeline.definition["Steps"]))
    assert sorted(titles) == sorted(step["DisplayName"] for step in steps)
    for x, y, w, h in boxes:
        assert left <= x
        assert x + w <= left + width
        assert top <= y
        assert y + h <= top + height
    overlapping = [
        (a, b) for a in boxes for b in boxes if a < b and abs(a[0] - b[0]) < a[2] and abs(a[1] - b[1]) < a[3]
    ]
    assert overlapping == []


def test_every_edge_leads_down(sagemaker_pipeline):
    steps = {step["Name"]: step for step in all_steps(sagemaker_pipeline.definition["Steps"])}
    links = graph.edges(sagemaker_pipeline.definition)
    nodes = graph.place(steps, graph.ranks(list(steps), links))
    assert links
    assert all(nodes[a].y < nodes[b].y for a, b in links)


def test_edges_follow_references_and_gates(sagemaker_pipeline):
    links = set(graph.edges(sagemaker_pipeline.definition))
    for gate in (s for s in all_steps(sagemaker_pipeline.definition["Steps"]) if s["Type"] == "Condition"):
        producers = [a for a, b in links if b == gate["Name"]]
        assert len(producers) == 1
        assert (gate["Name"], gate["Arguments"]["IfSteps"][0]["Name"]) in links


def test_equal_definitions_give_equal_bytes(sagemaker_pipeline):
    first, second = (graph.to_svg("x", sagemaker_pipeline.definition) for _ in range(2))
    assert first == second


def test_a_name_cannot_break_the_picture(sagemaker_pipeline):
    ElementTree.fromstring(graph.to_svg("a<b>&\"c'", sagemaker_pipeline.definition))
