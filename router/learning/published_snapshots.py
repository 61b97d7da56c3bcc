"""The snapshots that an experiment has published: recent decisions were drawn from them."""

from __future__ import annotations

from router.policies.snapshot import WeightSnapshot, masked


class PublishedSnapshots:
    """Snapshots with the time of the log's clock when each was published (microseconds), oldest first; never empty."""

    def __init__(self, first: WeightSnapshot) -> None:
        self.entries: list[tuple[WeightSnapshot, int]] = [(first, 0)]

    @property
    def newest(self) -> WeightSnapshot:
        """The snapshot in force."""
        return self.entries[-1][0]

    def probabilities(self, number: int, mask: int) -> tuple[float, ...] | None:
        """Return the probability of each arm in snapshot `number` among the arms in `mask`; None if it is unknown."""
        for snapshot, _ in reversed(self.entries):
            if snapshot.number == number:
                return tuple(masked(snapshot.weights, mask))
        return None

    def publish(self, snapshot: WeightSnapshot, at_us: int) -> None:
        """Add a snapshot, unless it has the weights of the newest one and no models."""
        if snapshot.weights != self.newest.weights or snapshot.models is not None:
            self.entries.append((snapshot, at_us))

    def forget_before(self, oldest_us: int) -> None:
        """Drop the snapshots that were replaced before `oldest_us`: no decision on its way was drawn from them."""
        while len(self.entries) > 1 and self.entries[1][1] < oldest_us:
            self.entries.pop(0)
