"""One list of several rankings: valid answers, rankers that are left out, the client's answer and the record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Expired, Failed, InvalidRequest, MillraceError, QueueFull
from broker.protocol.header import Answer, Request, Route, Status
from broker.protocol.ids import derived_uid
from broker.records.endpoint import read_endpoint
from broker.tensor.inference import parse_head
from broker.tensor.outputs import encode
from router.drawing.router import Router
from router.interleaving.interleave import interleave
from router.interleaving.placed import stream
from router.policies.interleaving import Interleaving
from router.policies.split import Split
from router.ranking.fan_in import AnswersByArm
from router.ranking.merging import MergedAnswer, read_ranking

KEY = b"secret"
POLICY = Interleaving(arms=3, rankers=(0, 1, 2), length=4, output="items")
UID = derived_uid(b"7")
ROUTE = Route(endpoint="shop", arm="v2", model="m", version=2, snapshot=3, mask=7, policy="interleave")
REQUEST = Request(route=ROUTE, uid=UID, accepted_us=11, deadline_us=10**18, propensity=1 / 3, key="ann", body=b"{}")
LISTS = {"v1": ["a", "b", "c", "d", "e"], "v2": ["b", "x", "a", "y", "z"], "v3": ["q", "a", "r", "s", "t"]}


def router_of(policy: Interleaving | Split = POLICY) -> Router:
    arms = {"v1": "m@1", "v2": "m@2", "v3": "m@3"}
    return Router(
        read_endpoint({"endpoint": "shop", "arms": arms, "policy": {"split": [*arms]}}, source="t"), policy, KEY
    )


def encoded(arm: str, outputs: dict[str, Any], *, binary: bool = False, id_: str | None = None) -> Answer:
    """Return an answer as a processor writes it."""
    asked: dict[str, Any] = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]}
    asked |= {"parameters": {"binary_data_output": binary}} | ({"id": id_} if id_ else {})
    arrays = {name: np.array(value) if not isinstance(value, np.ndarray) else value for name, value in outputs.items()}
    body, length = encode(arrays, head=parse_head(orjson.dumps(asked), None), model="shop", version="1")
    return Answer(uid=UID, status=Status.OK, arm=arm, version=1, json_length=length, body=body)


def texts(items: Sequence[str | bytes], rows: int = 1) -> np.ndarray[Any, Any]:
    return np.array([[item if isinstance(item, bytes) else item.encode() for item in items]] * rows, dtype=object)


def ranked(arm: str, items: Sequence[str] | None = None, **more: Any) -> Answer:
    return encoded(arm, {"items": texts(LISTS[arm] if items is None else items)}, **more)


def failed(arm: str, status: Status = Status.FAILED) -> Answer:
    return Answer(uid=UID, status=status, arm=arm, version=1, body=b'{"error":"%s"}' % arm.encode())


def merged(
    *answers: Answer, missing: dict[str, MillraceError] | None = None, router: Router | None = None
) -> MergedAnswer:
    by_arm: AnswersByArm = {**{one.arm: one for one in answers}, **(missing or {})}
    return (router or router_of()).merge(REQUEST, by_arm)


def body_of(found: MergedAnswer) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(found.answer.body)
    return document


@pytest.mark.parametrize("binary", [True, False])
def test_the_list_and_its_credits_are_those_of_the_interleaving(binary: bool) -> None:
    found = merged(*[ranked(arm, binary=binary, id_="mine") for arm in LISTS])
    placed = interleave(list(LISTS.values()), "team_draft", 4, draw=stream(KEY, b"shop", UID))
    assert body_of(found) == {
        "model_name": "shop",
        "id": "mine",
        "parameters": {"millrace_rankers": "v1,v2,v3"},
        "outputs": [{"name": "items", "datatype": "BYTES", "shape": [1, 4], "data": list(placed.items)}],
    }
    assert (found.answer.uid, found.answer.status, found.answer.arm) == (UID, Status.OK, "v1+v2+v3")
    assert found.answer.json_length is None
    record = found.record
    assert record is not None
    assert (record.items, record.ranks, record.credits) == (placed.items, placed.ranks, placed.credits)
    assert (record.uid, record.key, record.policy, record.snapshot, record.mask) == (UID, "ann", "interleave", 3, 7)
    assert (record.method, record.rankers, record.used) == ("team_draft", ("v1", "v2", "v3"), ("v1", "v2", "v3"))
    assert record.accepted_us == 11 < record.at_us


def test_the_same_uid_gives_the_same_list_for_any_leg_0_and_any_order_of_answers() -> None:
    answers = [ranked(arm) for arm in LISTS]
    first = merged(*answers)
    by_arm = {one.arm: one for one in reversed(answers)}
    other = router_of().merge(REQUEST._replace(route=replace(ROUTE, arm="v3", model="n")), by_arm)
    assert other.answer == first.answer
    lists = {
        tuple(body_of(router_of().merge(REQUEST._replace(uid=derived_uid(bytes([n]))), by_arm))["outputs"][0]["data"])
        for n in range(20)
    }
    assert len(lists) > 1


def test_a_ranker_that_did_not_answer_is_left_out_and_earns_nothing() -> None:
    found = merged(ranked("v1"), ranked("v3"), missing={"v2": Expired("slow")})
    placed = interleave([LISTS["v1"], LISTS["v3"]], "team_draft", 4, draw=stream(KEY, b"shop", UID))
    assert body_of(found)["parameters"] == {"millrace_rankers": "v1,v3"}
    assert found.record is not None
    assert (found.record.rankers, found.record.used) == (("v1", "v2", "v3"), ("v1", "v3"))
    assert found.record.items == placed.items
    assert found.record.credits == tuple((one, 0.0, three) for one, three in placed.credits)
    assert found.record.ranks == tuple((one, 0, three) for one, three in placed.ranks)


def test_one_ranking_that_is_left_is_the_answer_and_nothing_is_credited() -> None:
    found = merged(ranked("v3"), failed("v1"), failed("v2", Status.INVALID))
    assert body_of(found)["outputs"][0]["data"] == ["q", "a", "r", "s"]
    assert found.answer.arm == "v3"
    assert found.record is not None
    assert found.record.credits == ((0.0, 0.0, 0.0),) * 4
    assert found.record.ranks == ((0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4))


GARBAGE = {
    "no JSON": lambda: ranked("v2")._replace(body=b"{"),
    "no object": lambda: ranked("v2")._replace(body=b"[]"),
    "no outputs": lambda: ranked("v2")._replace(body=b'{"model_name": "m"}'),
    "another output": lambda: encoded("v2", {"scores": texts(["a"])}),
    "scores": lambda: encoded("v2", {"items": np.array([[0.5, 0.25]], np.float32)}),
    "booleans": lambda: encoded("v2", {"items": np.array([[True, False]])}),
    "twice the same": lambda: ranked("v2", ["a", "b", "a"]),
    "nothing": lambda: ranked("v2", []),
    "too many": lambda: ranked("v2", [str(n) for n in range(10_001)]),
    "two rows": lambda: encoded("v2", {"items": texts(["a", "b"], rows=2)}),
    "a cube": lambda: encoded("v2", {"items": texts(["a"]).reshape(1, 1, 1)}),
    "no UTF-8": lambda: encoded("v2", {"items": texts([b"\xff"])}, binary=True),
    "cut short": lambda: (one := ranked("v2", binary=True))._replace(body=bytes(one.body)[:-1]),
    "a wrong length": lambda: ranked("v2", binary=True)._replace(json_length=0),
    "a number as id": lambda: ranked("v2")._replace(body=b'{"id": 5, "outputs": []}'),
    "deep": lambda: ranked("v2")._replace(body=b'{"outputs": ' + b"[" * 900 + b"]" * 900 + b"}"),
}


@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_a_ranking_that_cannot_be_read_is_missing(what: str) -> None:
    garbage = GARBAGE[what]()
    with pytest.raises(InvalidRequest):
        read_ranking(garbage, "items")
    found = merged(ranked("v1"), garbage, ranked("v3"))
    assert found.answer.arm == "v1+v3"
    with pytest.raises(Failed, match="v2 answered with no ranking"):
        merged(garbage, failed("v1"), failed("v3", Status.INVALID))


@given(st.binary(max_size=300), st.none() | st.integers(-5, 400))
def test_any_bytes_are_a_ranking_or_an_invalid_request(body: bytes, json_length: int | None) -> None:
    with suppress(InvalidRequest):
        read_ranking(Answer(uid=UID, status=Status.OK, arm="v1", version=1, json_length=json_length, body=body), "")


def test_integers_stay_integers() -> None:
    lists = {"v1": [7, 8, 9], "v2": [9, 2**40, 7]}
    found = merged(*[encoded(arm, {"items": np.array([items], np.int64)}, binary=True) for arm, items in lists.items()])
    output = body_of(found)["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("INT64", [1, 4])
    assert set(output["data"]) == {7, 8, 9, 2**40}
    assert found.record is not None
    assert set(found.record.items) == {"7", "8", "9", str(2**40)}


def test_items_of_another_datatype_cannot_be_mixed_in() -> None:
    found = merged(ranked("v1"), encoded("v2", {"items": np.array([[7, 8]])}), ranked("v3"))
    assert found.answer.arm == "v1+v3"


def test_a_model_without_a_batch_dimension_keeps_its_shape() -> None:
    found = merged(*[encoded(arm, {"items": texts(LISTS[arm])[0]}) for arm in ("v1", "v2")])
    assert body_of(found)["outputs"][0]["shape"] == [4]


def test_the_only_output_needs_no_name_and_one_of_two_does() -> None:
    router = router_of(replace(POLICY, output=""))
    assert merged(ranked("v1"), ranked("v2"), router=router).answer.arm == "v1+v2"
    both = encoded("v1", {"items": texts(["a"]), "scores": np.array([[1.0]])})
    with pytest.raises(InvalidRequest, match="items, scores"):
        read_ranking(both, "")
    assert read_ranking(both, "items").items == ("a",)


def test_without_a_ranking_the_error_is_leg_0s() -> None:
    assert merged(failed("v1", Status.OVERLOADED), failed("v2"), failed("v3")).answer == failed("v2")
    with pytest.raises(QueueFull, match="full"):
        merged(failed("v1"), missing={"v2": QueueFull("full"), "v3": Expired("slow")})


def test_it_is_the_clients_fault_only_if_all_say_so() -> None:
    invalid = [failed(arm, Status.INVALID) for arm in LISTS]
    found = merged(*invalid)
    assert found.answer == failed("v2", Status.INVALID)
    assert found.record is None
    assert merged(*invalid[:2], failed("v3")).answer == failed("v3")
    with pytest.raises(Expired):
        merged(*invalid[:2], missing={"v3": Expired("slow")})


def test_other_policies_merge_nothing() -> None:
    router = router_of(Split((1.0, 1.0, 1.0)))
    assert router.merging is None
    with pytest.raises(ValueError, match="split"):
        router.merge(REQUEST, {"v1": ranked("v1")})
