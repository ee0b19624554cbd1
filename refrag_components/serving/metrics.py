"""Figures for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrag_components.exceptions import MissingExtraError
from refrag_components.generation.report import Report

if TYPE_CHECKING:
    from refrag_components.serving.admission import Admission

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
except ImportError as error:
    msg = "the server needs more packages; pip install 'refrag-components[serve]'"
    raise MissingExtraError(msg) from error

__all__ = ["Metrics"]

_RATES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """Counts what a server does.

    Args:
        admission: Knows how many requests are answered and how many wait.
    """

    def __init__(self, admission: Admission) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "refrag_requests", "Requests by outcome", ["outcome"], registry=self._registry
        )
        self._tokens = Counter(
            "refrag_tokens",
            "Decoder positions of prompts, context tokens before compression, generated tokens",
            ["kind"],
            registry=self._registry,
        )
        self._passages = Counter(
            "refrag_passages",
            "Distinct passages by where their chunk vectors came from",
            ["source"],
            registry=self._registry,
        )
        self._first = Histogram(
            "refrag_time_to_first_token_seconds",
            "Time to first token, waiting included",
            registry=self._registry,
        )
        self._rate = Histogram(
            "refrag_compression_rate",
            "Context tokens per context position",
            buckets=_RATES,
            registry=self._registry,
        )
        for name, about, value in (
            ("refrag_running", "Requests that are answered", lambda: admission.running),
            ("refrag_waiting", "Requests that wait", lambda: admission.waiting),
        ):
            Gauge(name, about, registry=self._registry).set_function(value)

    def ended(self, outcome: str) -> None:
        """Counts a request by how it ended: "answered", "refused", "gone", "late" or "failed"."""
        self._requests.labels(outcome).inc()

    def answered(self, report: Report, waited: float) -> None:
        """Counts an answer.

        Args:
            report: What happened.
            waited: Seconds before the generator was asked.
        """
        self.ended("answered")
        self._tokens.labels("prompt").inc(report.positions)
        self._tokens.labels("context").inc(report.context_tokens)
        self._tokens.labels("generated").inc(report.output_tokens)
        self._passages.labels("store").inc(report.cache_hits)
        self._passages.labels("encoder").inc(report.cache_misses)
        self._first.observe(waited + (report.time_to_first_token or 0.0))
        if report.context_positions:
            self._rate.observe(report.rate)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
