"""The OpenAPI document describes the gateway exactly, and works with generators and linters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from starlette.routing import Route

from gateway.routes.app import routes
from gateway.routes.openapi import openapi
from tests.gateway.infer_requests import BODY, URL, error_of
from tests.gateway.running_gateway import Gateway

UID = "01890a5d-ac96-774b-bcce-b302099a8057"
METHODS = ("get", "post", "delete")


def validator(schema: str) -> Any:
    """Return a validator for a schema of the document."""
    return Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": openapi()["components"]})


def operations() -> Iterator[dict[str, Any]]:
    for item in openapi()["paths"].values():
        yield from (item[method] for method in METHODS if method in item)


def parts(document: Any) -> Iterator[dict[str, Any]]:
    """Return every object of a document."""
    if isinstance(document, dict):
        yield document
    for inner in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from parts(inner)


async def test_the_description_has_exactly_the_routes(gateway: Gateway) -> None:
    described = {
        (path, method.upper())
        for path, item in (await gateway.client.get("/openapi.json")).json()["paths"].items()
        for method in item
        if method != "parameters"
    }
    served = {(route.path, method) for route in _routes() for method in route.methods or () if method != "HEAD"}
    assert described == served - {("/openapi.json", "GET"), ("/docs", "GET")}


def _routes() -> list[Route]:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            return None

    return routes(Anything(), Anything())  # type: ignore[arg-type]


def test_the_description_is_valid_openapi() -> None:
    document = openapi()
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document))) == set(schemas)
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                parameters = [*item.get("parameters", []), *item[method].get("parameters", [])]
                given = {it["name"] for it in parameters if it["in"] == "path"}
                assert given == set(re.findall(r"{(\w+)}", path))
    names = [operation["operationId"] for operation in operations()]
    assert len(names) == len(set(names))


def test_generators_and_linters_find_the_fields_that_they_need() -> None:
    document = openapi()
    assert document["servers"][0]["url"] == "/"
    assert document["security"] == []  # an explicit statement that there is no authentication
    for part in parts(document["components"]["schemas"]):
        assert part.get("type") != "array" or "items" in part, part
    for operation in operations():
        assert any(code.startswith("4") for code in operation["responses"]), operation["operationId"]


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/v2", "Server"),
        ("/v2/health/live", "Live"),
        ("/v2/health/ready", "Ready"),
        ("/v2/models", "ModelNames"),
        ("/v2/models/double", "Model"),
        ("/v2/models/double/config", "ModelConfig"),
        ("/nowhere", "Error"),
        ("/v2/models/double/ready", "ModelReady"),
        ("/v2/models/stats", "Statistics"),
        ("/v2/models/double/versions/v1/stats", "Statistics"),
    ],
)
async def test_answers_are_as_described(gateway: Gateway, path: str, schema: str) -> None:
    validator(schema).validate((await gateway.client.get(path)).json())


async def test_posted_answers_are_as_described(gateway: Gateway) -> None:
    validator("Index").validate((await gateway.client.post("/v2/repository/index")).json())
    validator("InferRequest").validate(json.loads(BODY))
    validator("InferResponse").validate((await gateway.client.post(URL, content=BODY)).json())


async def test_examples_are_as_described() -> None:
    for operation in operations():
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is not None:
            validator(content["schema"]["$ref"].rpartition("/")[2]).validate(content["example"])


@pytest.mark.parametrize(
    "feedback",
    [
        {"values": {"a": 1}},
        {"truth": 1},
        {"truth": None},
        {"values": {}},
        {"values": {"a": 1}, "event_id": None},
        {"values": {"a": 1}, "item": None},
        {"values": {"a": 1}, "item": 7},
        {"values": {"a": 1}, "item": "x" * 256},
        {"values": {"a": 1}, "item": "x" * 257},
        {"values": {"a": 1}, "event_id": 7},
        {"values": {"a": "1"}},
        {"values": {"a": 1}, "truth": 1},
        {},
        {"values": None},
        {"truth": 1, "more": 1},
        {"truth": 1, "request_id": ""},
        {"truth": 1, "request_id": None},
        {"truth": 1, "event_id": "x" * 257},
        {"truth": 1, "item": [1]},
    ],
)
async def test_feedback_is_accepted_exactly_if_its_schema_allows_it(gateway: Gateway, feedback: dict[str, Any]) -> None:
    body = {"request_id": UID, **feedback}
    answer = await gateway.client.post("/v2/models/double/feedback", json=body)
    assert validator("Feedback").is_valid(body) == (answer.status_code == 202), answer.text


@pytest.mark.parametrize(("characters", "code"), [(256, 200), (257, 400)])
async def test_the_longest_key_of_the_document_is_accepted(gateway: Gateway, characters: int, code: int) -> None:
    headers = {
        it["name"]: it["schema"] for it in openapi()["paths"]["/v2/models/{endpoint}/infer"]["post"]["parameters"]
    }
    assert headers["millrace-key"]["maxLength"] == 256
    answer = await gateway.client.post(URL, content=BODY, headers={"millrace-key": "k" * characters})
    assert answer.status_code == code
    if code == 400:
        assert "256 are allowed" in error_of(answer)


async def test_versions_have_the_same_form_in_all_routes(gateway: Gateway) -> None:
    await gateway.declare(
        endpoint="shop", arms={"old": "double@1", "new": "double@1"}, policy={"split": ["old", "new"]}
    )
    metadata = (await gateway.until("/v2/models/shop", 200)).json()
    answer = await gateway.client.post("/v2/models/shop/versions/new/infer", content=BODY)
    index = (await gateway.client.post("/v2/repository/index")).json()
    statistics = (await gateway.client.get("/v2/models/shop/stats")).json()["model_stats"]
    assert metadata["versions"] == ["1"] == [it["version"] for it in statistics]
    assert answer.json()["model_version"] == answer.headers["millrace-version"] == "1"
    assert {it["version"] for it in index if it["name"] == "shop"} == {"1"}
    assert {it["arm"] for it in index if it["name"] == "shop"} == set(metadata["arms"]) == {"old", "new"}
