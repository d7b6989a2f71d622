"""The router's Prometheus metrics, one set an instance."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Metrics:
    """Everything that is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "srl_rlvr_router"}
        self.requests = Counter("requests", "Requests by how they ended", ["model_type", "tier", "outcome"], **own)
        self.refused = Counter("refused", "Requests that were not admitted, by reason", ["reason"], **own)
        self.hops = Counter("hops", "Servers asked, by outcome", ["tier", "outcome"], **own)
        self.seconds = Histogram("answer_seconds", "Time to the whole answer", ["tier"], buckets=SECONDS, **own)
        self.overhead = Histogram("overhead_seconds", "Time outside the servers", [], buckets=OVERHEAD, **own)
        self.usd = Counter("cost_usd", "Cost of the answers", ["model_type", "tier"], **own)
        self.tokens = Counter("tokens", "Tokens", ["tier", "direction"], **own)
        self.in_flight = Gauge("in_flight", "Requests being answered", **own)
        self.availability = Gauge("tier_availability", "Estimated availability", ["tier"], **own)
        self.canary_share = Gauge("canary_share", "Share of sessions on the challenger", ["alias"], **own)
        self.table = Gauge("selection_table", "1 for the table that routes", ["version"], **own)
        self.faults = Counter("internal_faults", "Faults that cost no answer, by kind", ["kind"], **own)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
