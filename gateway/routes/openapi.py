"""The OpenAPI 3.1 description of the gateway, written by hand; a test compares it with routes and answers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gateway.routes.health import product_version

Json = dict[str, Any]

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
TENSOR: Json = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "description": "BOOL, UINT8-64, INT8-64, FP16, FP32, FP64 or BYTES"},
        "parameters": {"type": "object", "additionalProperties": True},
        "data": {
            "type": "array",
            "items": {},
            "description": "Row-major, nested or flat; absent when the bytes follow the JSON.",
        },
    },
}
DESCRIBED: Json = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "-1 is any size; the batch comes first.",
        },
    },
}


_DURATIONS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
DOOR = ("400", "408", "414", "431", "503")  # any request may get these before a route handles it


def _ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _list_of(items: Json) -> Json:
    return {"type": "array", "items": items}


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "schema": schema, "description": description}


def _feedback_of(name: str, schema: Json) -> Json:
    """Return the schema of feedback with one field: either values or a truth."""
    request_id = {
        "type": "string",
        "format": "uuid",
        "minLength": 32,
        "description": "millrace-request-id of the answer.",
    }
    item = {
        "type": ["string", "integer", "null"],
        "maxLength": 256,
        "description": "The item of a list that it is about.",
    }
    event_id = {
        "type": ["string", "null"],
        "maxLength": 256,
        "description": "Feedback that is sent again with the same id counts once.",
    }
    properties = {"request_id": request_id, name: schema, "item": item, "event_id": event_id}
    return {**_object(["request_id", name], **properties), "additionalProperties": False}


_STRING: Json = {"type": "string"}
_FLAG: Json = {"type": "boolean"}

_MAP: Json = {"type": "object", "additionalProperties": True}
_COUNT: Json = {"type": "integer", "minimum": 0}
_BINARY: Json = {"type": "string", "format": "binary"}

SCHEMAS: Json = {
    "Error": _object(["error"], error=_STRING),
    "Server": _object(["name", "version", "extensions"], name=_STRING, version=_STRING, extensions=_list_of(_STRING)),
    "Live": _object(["live"], live=_FLAG),
    "Ready": _object(["ready", "live", "waiting_for"], ready=_FLAG, live=_FLAG, waiting_for=_list_of(_STRING)),
    "ModelNames": _object(["models"], models=_list_of(_STRING)),
    "Model": _object(
        ["name", "versions", "arms", "platform", "inputs", "outputs"],
        name=_STRING,
        versions={**_list_of(_STRING), "description": "Numbers of model versions, as text."},
        arms={
            "type": "object",
            "additionalProperties": _ref("Arm"),
            "description": "Each arm of the endpoint by its name.",
        },
        platform=_STRING,
        inputs=_list_of(_ref("DescribedTensor")),
        outputs=_list_of(_ref("DescribedTensor")),
    ),
    "Arm": _object(["model", "version"], model=_STRING, version=_STRING),
    "Duration": _object(["count", "ns"], count=_COUNT, ns=_COUNT),
    "InferenceStatistics": _object(
        list(_DURATIONS),
        **{name: _ref("Duration") for name in _DURATIONS},
    ),
    "BatchStatistics": _object(
        ["batch_size", "compute_input", "compute_infer", "compute_output"],
        batch_size=_COUNT,
        compute_input=_ref("Duration"),
        compute_infer=_ref("Duration"),
        compute_output=_ref("Duration"),
    ),
    "ModelStatistics": _object(
        ["name", "version", "last_inference", "inference_count", "execution_count", "inference_stats", "batch_stats"],
        name=_STRING,
        version=_STRING,
        last_inference=_COUNT,
        inference_count=_COUNT,
        execution_count=_COUNT,
        inference_stats=_ref("InferenceStatistics"),
        batch_stats=_list_of(_ref("BatchStatistics")),
    ),
    "Statistics": _object(["model_stats"], model_stats=_list_of(_ref("ModelStatistics"))),
    "ModelReady": _object(["name", "ready"], name=_STRING, ready=_FLAG, error=_STRING),
    "ModelConfig": _object(["name"], name=_STRING, max_batch_size={"type": "integer"}),
    "InferRequest": _object(
        ["inputs"],
        id=_STRING,
        parameters=_MAP,
        inputs=_list_of(_ref("Tensor")),
        outputs=_list_of(_ref("RequestedOutput")),
    ),
    "InferResponse": _object(
        ["model_name", "outputs"],
        model_name=_STRING,
        model_version=_STRING,
        id=_STRING,
        parameters=_MAP,
        outputs=_list_of(_ref("Tensor")),
    ),
    "Tensor": TENSOR,
    "RequestedOutput": _object(["name"], name=_STRING, parameters=_MAP),
    "DescribedTensor": DESCRIBED,
    "Feedback": {"oneOf": [_ref("FeedbackValues"), _ref("FeedbackTruth")]},
    "FeedbackValues": _feedback_of(
        "values",
        {
            "type": "object",
            "additionalProperties": {"type": ["number", "boolean"]},
            "description": "Numbers by reward; true and false for rewards of type bool.",
        },
    ),
    "FeedbackTruth": _feedback_of("truth", {"description": "The true label, any JSON."}),
    "Accepted": _object(["accepted"], accepted=_FLAG),
    "Pending": _object(
        ["id", "status", "location"],
        id=_STRING,
        status={"const": "pending"},
        location={"type": "string", "description": "The path of the answer."},
    ),
    "IndexRequest": _object([], ready=_FLAG),
    "Index": _list_of(
        _object(
            ["name", "version", "arm", "state", "reason"],
            name=_STRING,
            version=_STRING,
            arm=_STRING,
            state=_STRING,
            reason=_STRING,
        )
    ),
}

ERRORS = {
    "400": "The request is invalid.",
    "404": "No such endpoint, arm, version or request.",
    "408": "The request did not arrive completely in the time allowed.",
    "409": "The request already has its answer, so it cannot be cancelled.",
    "410": "The request expired or was cancelled, or its answer is no longer kept.",
    "413": "The body exceeds the limit.",
    "414": "The target is too long.",
    "422": "The Idempotency-Key was given for another request.",
    "429": "Too many requests wait already; try again after Retry-After.",
    "431": "The headers are too large.",
    "500": "The model could not compute it.",
    "501": "Not served by this gateway.",
    "503": "No process can serve the request now; try again after Retry-After.",
    "504": "The time allowed has passed.",
}

INFER_HEADERS: list[Json] = [
    _header(
        "Inference-Header-Content-Length",
        {"type": "integer", "minimum": 0},
        "Bytes of JSON before the raw tensors (binary tensor data extension).",
    ),
    _header(
        "millrace-timeout-ms", {"type": "integer", "minimum": 1}, "Time allowed, at most the deadline of the endpoint."
    ),
    _header(
        "millrace-key",
        {"type": "string", "maxLength": 256},
        "Requests with the same key get the same arm from a sticky policy, for example a user id.",
    ),
    _header("millrace-arm", _STRING, "The arm or version that must answer, for testers: logged, but not counted."),
    _header(
        "Prefer", _STRING, "RFC 7240: respond-async answers 202 at once, wait=N after N seconds without an answer."
    ),
    _header(
        "Idempotency-Key",
        {"type": "string", "minLength": 1, "maxLength": 255},
        "A request that is sent again with its key is computed once and answered each time.",
    ),
    _header("traceparent", _STRING, "W3C trace context."),
]

INFER_EXAMPLE: Json = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
FEEDBACK_EXAMPLE: Json = {"request_id": "01890a5d-ac96-774b-bcce-b302099a8057", "values": {"clicked": 1}}


@lru_cache(maxsize=1)
def openapi() -> Json:
    """Return the OpenAPI document."""
    model, version = "/v2/models/{endpoint}", "/v2/models/{endpoint}/versions/{version}"
    paths: Json = {
        "/v2": {"get": _operation("server", "Name, version and extensions", "Server")},
        "/v2/health/live": {"get": _operation("live", "Is the process alive?", "Live")},
        "/v2/health/ready": {"get": _also("503", "Ready", _operation("ready", "Can it serve? If not, why?", "Ready"))},
        "/v2/models": {"get": _operation("models", "Names of all endpoints", "ModelNames")},
        "/v2/models/stats": {"get": _operation("statistics", "Statistics of all models", "Statistics")},
    }
    for path, suffix in ((model, ""), (version, "Version")):
        paths |= _of_model(path, suffix)
    paths[f"{model}/feedback"] = {"post": _feedback()}
    paths["/v2/requests/{uid}"] = _requests()
    paths |= _repository()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Millrace gateway",
            "version": product_version(),
            "description": "Open Inference Protocol v2 in front of queues. Every answer carries millrace-request-id.",
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "security": [],
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _of_model(path: str, suffix: str) -> Json:
    named = _path_parameters(path)
    metadata = _operation(
        f"metadata{suffix}", "Inputs, outputs and arms of an endpoint", "Model", errors=("404", "503")
    )
    config = _operation(f"config{suffix}", "Triton's model configuration", "ModelConfig", errors=("404", "503"))
    ready = _operation(f"modelReady{suffix}", "Is a replica ready?", "ModelReady", errors=("404",))
    return {
        path: {"get": metadata, "parameters": named},
        f"{path}/config": {"get": config, "parameters": named},
        f"{path}/stats": {
            "get": _operation(f"modelStatistics{suffix}", "Statistics of a model", "Statistics", errors=("404",)),
            "parameters": named,
        },
        f"{path}/ready": {"get": _also("503", "ModelReady", ready), "parameters": named},
        f"{path}/infer": {"post": _infer(suffix), "parameters": named},
    }


def _infer(suffix: str) -> Json:
    operation = _operation(
        f"infer{suffix}",
        "Infer, and wait for the answer",
        "InferResponse",
        errors=("400", "404", "413", "422", "429", "500", "503", "504"),
    )
    operation["responses"]["202"] = _answer("Stored and in its queue; Location is the path of the answer.", "Pending")
    operation["parameters"] = INFER_HEADERS
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("InferRequest"), "example": INFER_EXAMPLE},
            "application/octet-stream": {"schema": _BINARY},
        },
    }
    operation["responses"]["200"]["content"]["application/octet-stream"] = {"schema": _BINARY}
    return operation


def _feedback() -> Json:
    operation = _operation(
        "feedback",
        "Send feedback on a prediction",
        "Accepted",
        code="202",
        errors=("400", "404", "413", "429", "503"),
    )
    operation["parameters"] = [_path_parameter("endpoint")]
    operation["requestBody"] = _json_body("Feedback", FEEDBACK_EXAMPLE)
    return operation


def _requests() -> Json:
    fetch = _operation(
        "fetch",
        "The answer of an asynchronous request",
        "InferResponse",
        errors=("400", "404", "410", "429", "500", "503"),
    )
    fetch["responses"]["200"]["content"]["application/octet-stream"] = {"schema": _BINARY}
    fetch["responses"]["202"] = _answer("No answer yet; ask again after Retry-After.", "Pending")
    fetch["parameters"] = [header for header in INFER_HEADERS if header["name"] == "Prefer"]
    cancel: Json = {
        "operationId": "cancel",
        "summary": "Cancel a request that has no answer yet",
        "responses": {
            "204": {"description": "The request is cancelled."},
            **{error: _answer(ERRORS[error], "Error") for error in sorted({"404", "409", "410", *DOOR})},
        },
    }
    return {"get": fetch, "delete": cancel, "parameters": [_path_parameter("uid")]}


def _repository() -> Json:
    index = _operation("repositoryIndex", "Every arm and its state", "Index", errors=("400", "413"))
    index["requestBody"] = {**_json_body("IndexRequest", {"ready": True}), "required": False}
    paths: Json = {"/v2/repository/index": {"post": index}}
    for verb in ("load", "unload"):
        operation: Json = {
            "operationId": verb,
            "summary": "Not served yet",
            "responses": {error: _answer(ERRORS[error], "Error") for error in sorted({"501", *DOOR})},
            "parameters": [_path_parameter("model")],
        }
        paths[f"/v2/repository/models/{{model}}/{verb}"] = {"post": operation}
    return paths


def _operation(name: str, summary: str, schema: str, *, code: str = "200", errors: tuple[str, ...] = ()) -> Json:
    answers = {error: _answer(ERRORS[error], "Error") for error in sorted({*errors, *DOOR})}
    responses = {code: _answer("The answer.", schema), **answers}
    return {"operationId": name, "summary": summary, "responses": responses}


def _also(code: str, schema: str, operation: Json) -> Json:
    operation["responses"][code] = _answer("Not ready.", schema)
    return operation


def _answer(description: str, schema: str) -> Json:
    header = {"description": "The id of this request.", "schema": {"type": "string", "format": "uuid"}}
    return {
        "description": description,
        "headers": {"millrace-request-id": header},
        "content": {"application/json": {"schema": _ref(schema)}},
    }


def _json_body(schema: str, example: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema), "example": example}}}


def _path_parameters(path: str) -> list[Json]:
    return [_path_parameter(name) for name in ("endpoint", "version") if f"{{{name}}}" in path]


def _path_parameter(name: str) -> Json:
    said = {
        "endpoint": "A declared endpoint, or a model that no endpoint declares.",
        "version": "An arm's name or its model version: pins the arm (logged, never credited).",
        "model": "A model of the repository.",
        "uid": "The millrace-request-id of the 202.",
    }
    schema: Json = (
        {"type": "string", "pattern": NAME_PATTERN} if name != "uid" else {"type": "string", "format": "uuid"}
    )
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": said[name]}
