import json

import pytest
import torch

from stx_core.errors import ModelError
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.router import Router


def router(*routes: str, **options) -> Router:
    return Router({route: [Normalize()] for route in routes}, **options)


@pytest.mark.parametrize(
    ("mappings", "task", "expected"),
    [
        ({("query", "text"): "a", ("query", None): "b"}, "query", "a"),
        ({("query", None): "b", (None, "text"): "a"}, "query", "b"),
        ({(None, "text"): "a", (None, None): "b"}, "query", "a"),
        ({(None, None): "b"}, "anything", "b"),
        ({("query", ("text", "image")): "b"}, "a", "a"),
        ({}, "b", "b"),
        ({}, None, "a"),
    ],
)
def test_the_most_exact_mapping_decides_then_the_name_then_the_default(mappings, task, expected):
    assert router("a", "b", route_mappings=mappings).route_for(task) == expected


def test_a_route_named_text_is_taken_before_the_default():
    assert router("a", "text").route_for(None) == "text"


def test_a_task_without_route_is_an_error_even_with_a_default():
    with pytest.raises(ValueError, match=r"no route for task 'query'; there are \['a', 'b'\]"):
        router("a", "b", default_route="a").route_for("query")


def test_without_default_and_task_there_is_no_route():
    with pytest.raises(ValueError, match="no route for task None"):
        router("a", allow_empty_key=False).route_for(None)


@pytest.mark.parametrize(
    "options", [{"default_route": "c"}, {"route_mappings": {("query", None): "c"}}]
)
def test_a_route_that_does_not_exist_is_refused(options):
    with pytest.raises(ValueError, match=r"routes are \['a'\], but \['c'\] are named"):
        router("a", **options)


def test_features_go_through_the_modules_of_their_route():
    module = Router.for_query_document([Dense(2, 2)], [Normalize()])
    embedding = torch.tensor([[3.0, 4.0]])

    document = module({"sentence_embedding": embedding, "task": "document"})["sentence_embedding"]
    query = module({"sentence_embedding": embedding, "task": "query"})["sentence_embedding"]

    torch.testing.assert_close(document, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(
        query,
        module.sub_modules["query"][0]({"sentence_embedding": embedding})["sentence_embedding"],
    )


def test_modules_that_routes_share_are_saved_once_and_shared_again(tmp_path):
    shared = Dense(2, 3)
    module = Router({"a": [shared], "b": [shared, Normalize()]}, default_route="b")

    module.save(tmp_path)
    again = Router.from_folder(tmp_path, LoadOptions())

    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [
        "a_0_Dense",
        "b_1_Normalize",
    ]
    assert again.sub_modules["a"][0] is again.sub_modules["b"][0]
    assert again.default_route == "b"


def test_mappings_survive_saving(tmp_path):
    mappings = {("query", None): "a", (None, ("text", "image")): "b"}

    router("a", "b", route_mappings=mappings).save(tmp_path)

    expected = {("query", None): "a", (None, ("image", "text")): "b"}
    assert Router.from_folder(tmp_path, LoadOptions()).route_mappings == expected


def test_of_routes_of_different_widths_the_first_counts(caplog):
    module = Router({"a": [Dense(2, 3)], "b": [Dense(2, 4)]})

    assert module.get_embedding_dimension() == 3
    assert "different widths" in caplog.text


def change(tmp_path, **changes):
    router("a").save(tmp_path)
    path = tmp_path / "router_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"types": {"x": "os.system"}}, "is unknown"),
        ({"types": {"../x": "sentence_transformers.models.Normalize"}}, "must be relative"),
        ({"structure": {"a": ["missing"]}}, "do not fit together"),
        ({"parameters": {"route_mappings": {"__import__('os')": "a"}}}, "is not a pair"),
        ({"parameters": {"default_route": "z"}}, "do not fit together"),
        ({"parameters": {"surprise": 1}}, "do not fit together"),
        ({"types": None}, "needs types and structure"),
    ],
)
def test_a_malformed_router_is_explained(changes, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        Router.from_folder(change(tmp_path, **changes), LoadOptions())
