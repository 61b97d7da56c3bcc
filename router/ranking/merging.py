"""One answer made of several rankers' answers: pure, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from broker.errors import Failed, InvalidRequest, MillraceError
from broker.protocol.header import BY_WORD, Answer, Request, Status
from broker.protocol.ids import now_us
from broker.records.merges import Merge
from broker.tensor.datatypes import Array, datatype_of
from broker.tensor.responses import read_response
from router.interleaving.interleave import interleave
from router.interleaving.placed import ITEMS_LIMIT, Draw, PlacedList
from router.policies.policy import ListMerging
from router.ranking.fan_in import AnswersByArm

RANKERS_PARAMETER = "millrace_rankers"


class MergedAnswer(NamedTuple):
    """The client's answer, and the record of each ranker's part in it; None if no list was merged."""

    answer: Answer
    record: Merge | None


class RankedList(NamedTuple):
    """One ranker's list, the best item first, and the form of its answer."""

    id: str | None
    output: str
    datatype: str
    dimensions: int
    items: tuple[str, ...]


def merge(
    request: Request, rankers: Sequence[str], answers: AnswersByArm, policy: ListMerging, draw: Draw
) -> MergedAnswer:
    """Return one list merged from the rankers' answers; `request` is leg 0 as sent, `rankers` in the arms' order.

    A ranker is left out if it answered an error, no ranking, or items of another datatype than the first ranking. A
    single ranking is the answer, cut to length. Without any ranking this returns the error answer of a ranker, or
    raises the error of the router: leg 0's, but `invalid` only if it is the status of all.
    """
    rankings, broken = _rankings(rankers, answers, policy.output)
    if not rankings:
        return MergedAnswer(_error((request.route.arm, *rankers), answers, broken), None)
    placed = _placed(list(rankings.values()), policy, draw)
    return MergedAnswer(_answer(request, rankings, placed), _record(request, rankers, tuple(rankings), placed, policy))


def read_ranking(answer: Answer, output: str) -> RankedList:
    """Return the ranking in an answer's `output` (empty: its only one). Raises InvalidRequest if it holds none."""
    response = read_response(answer.body, answer.json_length)
    name = output or next(iter(response.outputs))
    if name not in response.outputs or (not output and len(response.outputs) > 1):
        raise InvalidRequest(f"output {output!r} must hold the ranking; the answer has {', '.join(response.outputs)}")
    array = response.outputs[name]
    if array.ndim not in (1, 2) or (array.ndim == 2 and len(array) != 1):
        raise InvalidRequest(f"output {name} has shape {list(array.shape)}: a ranking is one row")
    items = _texts(name, array)
    if not 1 <= len(items) <= ITEMS_LIMIT or len(set(items)) != len(items):
        raise InvalidRequest(f"output {name} has {len(items)} items: a ranking has 1 to {ITEMS_LIMIT}, each once")
    return RankedList(response.id, name, datatype_of(array.dtype) or "BYTES", array.ndim, items)


def _texts(name: str, array: Array) -> tuple[str, ...]:
    if array.dtype.kind in "iu":
        return tuple(map(str, array.ravel().tolist()))
    if array.dtype != object:
        raise InvalidRequest(f"output {name} is {datatype_of(array.dtype)}: items are BYTES or integers")
    try:
        return tuple([item.decode() for item in array.ravel().tolist()])
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"output {name} holds an item that is not UTF-8") from exc


def _rankings(
    rankers: Sequence[str], answers: AnswersByArm, output: str
) -> tuple[dict[str, RankedList], dict[str, MillraceError]]:
    """Return the rankings that can be merged, and the errors of rankers whose answer holds none."""
    rankings: dict[str, RankedList] = {}
    broken: dict[str, MillraceError] = {}
    for arm in rankers:
        answer = answers[arm]
        if not isinstance(answer, Answer) or answer.status is not Status.OK:
            continue
        try:
            ranking = read_ranking(answer, output)
        except InvalidRequest as exc:
            broken[arm] = Failed(f"{arm} answered with no ranking: {exc}")
            continue
        if all(ranking.datatype == other.datatype for other in rankings.values()):
            rankings[arm] = ranking
    return rankings, broken


def _error(rankers: Sequence[str], answers: AnswersByArm, broken: dict[str, MillraceError]) -> Answer:
    """Return or raise the first error; `invalid` only if all rankers found the request invalid."""
    errors = [broken.get(arm, answers[arm]) for arm in rankers]
    error = next((one for one in errors if _status(one) is not Status.INVALID), errors[0])
    if isinstance(error, MillraceError):
        raise error
    return error


def _status(answer: Answer | MillraceError) -> Status:
    return answer.status if isinstance(answer, Answer) else BY_WORD[answer.status]


def _placed(rankings: Sequence[RankedList], policy: ListMerging, draw: Draw) -> PlacedList:
    """Return the list; ranks and credits have one number for each of `rankings`."""
    if len(rankings) > 1:
        return interleave([ranking.items for ranking in rankings], policy.method, policy.length, draw=draw)
    items = rankings[0].items[: policy.length]
    ranks = tuple((rank,) for rank in range(1, len(items) + 1))
    return PlacedList(policy.method, items, ranks, ((0.0,),) * len(items))


def _answer(request: Request, rankings: dict[str, RankedList], placed: PlacedList) -> Answer:
    first = next(iter(rankings.values()))
    data = placed.items if first.datatype == "BYTES" else [int(item) for item in placed.items]
    shape = [1] * (first.dimensions - 1) + [len(data)]
    document: dict[str, Any] = {
        "model_name": request.route.endpoint,
        "outputs": [{"name": first.output, "datatype": first.datatype, "shape": shape, "data": data}],
        "parameters": {RANKERS_PARAMETER: ",".join(rankings)},
    }
    if first.id is not None:
        document["id"] = first.id
    return Answer(uid=request.uid, status=Status.OK, arm="+".join(rankings), body=orjson.dumps(document))


def _record(
    request: Request, rankers: Sequence[str], used: Sequence[str], placed: PlacedList, policy: ListMerging
) -> Merge:
    """Return the record; a ranker that was left out has 0 for every item."""
    places = [used.index(arm) if arm in used else None for arm in rankers]
    route = request.route
    return Merge(
        uid=request.uid,
        key=request.key,
        policy=route.policy,
        snapshot=route.snapshot,
        mask=route.mask,
        method=policy.method,
        rankers=tuple(rankers),
        used=tuple(used),
        items=placed.items,
        ranks=tuple(tuple(0 if at is None else row[at] for at in places) for row in placed.ranks),
        credits=tuple(tuple(0.0 if at is None else float(row[at]) for at in places) for row in placed.credits),
        accepted_us=request.accepted_us,
        at_us=now_us(),
    )
