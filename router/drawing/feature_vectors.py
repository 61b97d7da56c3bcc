"""The feature vector of a request, for policies that weigh arms by features (`router/declaration/features.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from broker.errors import InvalidRequest
from broker.records.events import FEATURES
from broker.support.strict import number
from broker.tensor.inference import parse_head, shown
from broker.tensor.tensors import decode
from router.declaration.features import Feature, NumberFeature, OneHotFeature, TensorFeature

LARGEST = 1e6


def vector_of(features: Sequence[Feature], body: bytes | memoryview, json_length: int | None) -> list[float]:
    """Return 1 for the intercept, then each feature's numbers. Raises InvalidRequest naming a missing or wrong value.

    Tensors are decoded only if a feature is one.
    """
    if any(isinstance(feature, TensorFeature) for feature in features):
        inputs = decode(body, json_length)
        parameters, tensors = inputs.head.parameters, inputs.tensors
    else:
        parameters, tensors = parse_head(body, json_length).parameters, {}
    vector = [1.0]
    for feature in features:
        vector += _numbers(feature, parameters, tensors)
    return vector


def noted(extra: bytes, vector: Sequence[float]) -> bytes:
    """Return a request's `extra` with its feature vector added, for its row."""
    return orjson.dumps({**(orjson.loads(extra) if extra else {}), FEATURES: vector})


def _numbers(feature: Feature, parameters: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[float]:
    if isinstance(feature, TensorFeature):
        return _row(feature, tensors)
    if feature.name not in parameters:
        raise InvalidRequest(f"parameters.{feature.name} is missing: this endpoint's policy uses it")
    value = parameters[feature.name]
    if isinstance(feature, OneHotFeature):
        return [1.0 if value == one and not isinstance(value, bool) else 0.0 for one in feature.values]
    return [_number(feature, value)]


def _number(feature: NumberFeature, value: Any) -> float:
    try:
        found = float(value) if isinstance(value, bool) else number(value)
    except ValueError:
        found = float("nan")
    if not abs(found) <= LARGEST:
        raise InvalidRequest(
            f"parameters.{feature.name}: {shown(value)} is not a number from -{LARGEST:g} to {LARGEST:g}, which this"
            " endpoint's policy uses"
        )
    return found


def _row(feature: TensorFeature, tensors: Mapping[str, Any]) -> list[float]:
    tensor = tensors.get(feature.name)
    if tensor is None:
        raise InvalidRequest(f"input {feature.name!r} is missing: this endpoint's policy uses it")
    if tensor.dtype.kind not in "biuf" or tensor.size != feature.dimensions:
        raise InvalidRequest(
            f"input {feature.name!r} has {tensor.size} values of {tensor.dtype}: this endpoint's policy uses a row"
            f" of {feature.dimensions} numbers"
        )
    row = np.asarray(tensor, np.float64).ravel()
    if not (np.abs(row) <= LARGEST).all():
        raise InvalidRequest(f"input {feature.name!r} holds a number beyond {LARGEST:g}, or none at all")
    return [float(value) for value in row]
