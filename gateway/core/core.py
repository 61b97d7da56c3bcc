"""The parts that all routes of a gateway share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from broker.base import MESSAGE_LIMIT_BYTES, Broker
from broker.delivery.prediction_log import DOOR_LINGER_S, PredictionLogWriter
from broker.errors import MillraceError, NotFound, Unavailable
from broker.records.agreement import Agreement
from gateway.core.cancels import CancelSender
from gateway.core.metrics import GatewayMetrics
from gateway.core.model_statistics import ModelStatistics
from gateway.core.pending import PendingRequests
from gateway.core.readiness import Readiness
from gateway.transport.door import Door, DoorLimits
from router.drawing.router import Router
from router.service.shadows import SHADOWS_LIMIT
from router.state.view import View

HEADER_ROOM_BYTES = 64 * 1024
RESULTS_LATE_S = 10.0  # after the deadline an answer may still be on its way to the store
RESULTS_SWEEP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of one gateway."""

    instance: str
    host: str = "127.0.0.1"
    port: int = 8000
    body_limit_bytes: int = MESSAGE_LIMIT_BYTES - HEADER_ROOM_BYTES
    feedback_limit_bytes: int = 256 * 1024
    pending_limit: int = 10_000
    results_limit_bytes: int = 2 << 30
    publish_patience_s: float = 10.0
    grace_s: float = 15.0
    metrics_port: int = 0
    strict_readiness: bool = False
    compress_above_bytes: int = 4096
    results_late_s: float = RESULTS_LATE_S
    results_sweep_s: float = RESULTS_SWEEP_S
    shadows_limit: int = SHADOWS_LIMIT  # that are sent at once
    door: DoorLimits = field(default_factory=DoorLimits)
    agreement: Agreement | None = None  # compared with other members; None compares nothing


class Core:
    """The broker, the view of the served models, pending requests, and the rows of refused requests."""

    def __init__(self, broker: Broker, view: View, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self.broker = broker
        self.view = view
        self.settings = settings
        self.metrics = metrics
        self.door = Door(settings.door, metrics.refused)
        self.readiness = Readiness(
            broker, view, strict=settings.strict_readiness, no_answers=lambda: self.pending.answers.trouble()
        )
        self.pending = PendingRequests(broker, broker.channels.answers(settings.instance), limit=settings.pending_limit)
        self.rows = PredictionLogWriter(broker, {}, source=f"/millrace/{settings.instance}", linger_s=DOOR_LINGER_S)
        self.cancels = CancelSender(broker)
        self.computed = ModelStatistics()
        self.inputs = lru_cache(maxsize=1024)(broker.channels.inputs)

    def resolve(self, endpoint: str) -> tuple[Router, int]:
        """Return the router of an endpoint and the mask of its ready arms.

        Raises NotFound, and Unavailable while no replica of any of its arms has come up.
        """
        self._check_read()
        try:
            router, mask = self.view.resolve(endpoint)
        except NotFound as exc:
            raise self._unknown(exc) from exc
        if not mask and not self.view.versions.is_known(router.endpoint):
            arms = ", ".join(f"{target.model}@{target.version}" for target in router.endpoint.arms.values())
            raise Unavailable(f"endpoint {endpoint}: no replica of {arms} has come up yet")
        self.view.versions.check_servable(router.endpoint, mask)
        return router, mask

    def router(self, endpoint: str) -> Router:
        """Return the router of an endpoint. Raises NotFound, and Unavailable while the gateway still reads the logs."""
        self._check_read()
        try:
            return self.view.router(endpoint)
        except NotFound as exc:
            raise self._unknown(exc) from exc

    def _unknown(self, error: NotFound) -> MillraceError:
        """Return the error for an unknown endpoint: it may exist as long as not everything is loaded."""
        if self.readiness.has_loaded:
            return error
        return Unavailable(f"{error}; this gateway has just started, and is still loading models")

    def _check_read(self) -> None:
        if not self.readiness.has_read:
            raise Unavailable("this gateway has just started, and still reads the declarations")

    def max_batch(self, model: str, version: int) -> int:
        """Return the largest number of requests in one bundle for a model version."""
        return self.view.versions.max_batch(model, version)
