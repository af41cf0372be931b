"""What the server tells of its work as it goes on, to whoever counts it."""

from typing import Protocol


class Meter(Protocol):
    """Counts; never fails and never waits, for it is told between two batches.

    All times are in seconds, all sizes in bytes of tensors.
    """

    def batched(
        self, *, images: int, requests: int, owners: int, compute_s: float
    ) -> None:
        """Tell of one batch that was computed."""
        ...

    def answered(
        self, *, queue_s: float, audit_s: float, received: int, sent: int
    ) -> None:
        """Tell of one request that was released: its waits and its sizes."""
        ...

    def refused(self, kind: str) -> None:
        """Tell of one request that ended with an error of this kind."""
        ...


class NoMeter:
    """Counts nothing."""

    def batched(
        self, *, images: int, requests: int, owners: int, compute_s: float
    ) -> None:
        """Count nothing."""

    def answered(
        self, *, queue_s: float, audit_s: float, received: int, sent: int
    ) -> None:
        """Count nothing."""

    def refused(self, kind: str) -> None:
        """Count nothing."""
