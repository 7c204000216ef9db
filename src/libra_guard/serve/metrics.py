"""What the server counts and times, for Prometheus.

Names follow Prometheus' conventions (base units, ``_total`` for what only grows). No label takes its values from users:
a path is the template of the route that took it, and each label has a longest list of values.

With several workers each process counts in files of one folder (``PROMETHEUS_MULTIPROC_DIR``; ``several_workers`` makes
it), and any of them answers for all. prometheus_client looks at the variable when it is first imported, so it is set
before the workers start; a folder that was used before would count an earlier server in.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from libra_guard import __version__
from libra_guard.records import Target, Verdict

if TYPE_CHECKING:
    from libra_guard.policy.decide import Decision

OTHER = "other"
"""Stands for every value that has no series of its own: a path without a route, an unknown method."""
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_MOST = 100
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LIVE = re.compile(r"gauge_live[a-z]+_(\d+)\.db")


class Metrics:
    """All series of one application, in a registry of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._folder = os.environ.get(_FOLDER)
        self._values: dict[str, set[str]] = defaultdict(set)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"libra_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str, of_workers: Any) -> Gauge:
            return Gauge(f"libra_{name}", about, labels, registry=registry, multiprocess_mode=of_workers)

        def seconds(name: str, about: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"libra_{name}_seconds", about, labels, registry=registry, buckets=buckets)

        self._requests = counter("requests_total", "Requests answered.", "route", "method", "status")
        self._request_seconds = seconds("request", "From a request's first byte to its answer's last.", "route")
        self._rejected = counter("rejected_total", "Requests turned away before a guard judged them.", "reason")
        self._decisions = counter(
            "decisions_total",
            "Conversations decided; `would` is what enforce mode does where a policy only monitors.",
            *("guard", "policy", "stage", "action", "would"),
        )
        self._scenarios = counter("scenarios_total", "Risk scenarios named in decisions.", "guard", "scenario")
        self._unreadable = counter("unreadable_total", "Verdicts whose answer could not be read.", "guard")
        self._known = counter("known_total", "Verdicts that were known from an earlier request.", "guard")
        self._queue = gauge("queue_depth", "Conversations that wait for a guard.", "guard", of_workers="livesum")
        self._batch = Histogram(
            *("libra_batch_size", "Conversations, or pieces of long ones, a guard judged at once.", ["guard"]),
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        self._guard_seconds = seconds("guard", "A guard at work on one batch.", "guard")
        self._first_text = seconds("stream_first_text", "From a stream's first text to the first that was released.")
        self._window = seconds("stream_window", "From the end of a window of a stream to its verdict.")
        self._first_hit = seconds("stream_first_hit", "The same, of the windows that were blocked, one a stream.")
        self._upstream = seconds("upstream", "From a request to the upstream to the head of its answer.", buckets=_LONG)
        self._upstream_errors = counter("upstream_errors_total", "Requests that the upstream failed.", "reason")
        self._policy_problems = gauge("policy_problems", "Policy files that cannot be taken up.", of_workers="livemax")
        self._audit_errors = counter("audit_errors_total", "Times that the audit log could not be written.")
        self._audit_lost = counter("audit_lost_total", "Decisions that are missing in the audit log.")
        gauge("build_info", "Always 1; the version is the label.", "version", of_workers="max").labels(__version__).set(
            1
        )
        if self._folder is None:
            # Memory and descriptors of one process; several have no sum of their own.
            ProcessCollector(registry=registry)

    def request(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """A request was answered.

        Args:
            scope: The ASGI scope after routing: it tells the method and, where one matched, the route.
            status: HTTP status; 499 where the client hung up before.
            seconds: How long it took.
        """
        route = self._bounded("route", getattr(scope.get("route"), "path", OTHER))
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self._requests.labels(route, method, status).inc()
        self._request_seconds.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """A request was turned away.

        Args:
            reason: ``queue_full``, ``deadline``, ``closing``, ``requests``, ``body_size``, ``body_time``, ``key`` or
                ``host``.
        """
        self._rejected.labels(self._bounded("reason", reason)).inc()

    def decided(self, guard: str, target: Target, verdict: Verdict, decision: Decision) -> None:
        """A conversation was judged by ``guard`` and decided upon."""
        guard = self._bounded("guard", guard)
        policy = self._bounded("policy", decision.policy)
        self._decisions.labels(guard, policy, target.value, decision.action.value, decision.would.value).inc()
        for scenario in decision.scenarios:
            self._scenarios.labels(guard, self._bounded("scenario", scenario)).inc()
        if not verdict.valid:
            self._unreadable.labels(guard).inc()

    def known(self, guard: str, count: int) -> None:
        """So many conversations were not judged, for ``guard`` had judged the same before."""
        self._known.labels(self._bounded("guard", guard)).inc(count)

    def queued(self, guard: str, depth: int) -> None:
        """So many conversations wait for ``guard`` now."""
        self._queue.labels(guard).set(depth)

    def judged(self, guard: str, size: int, seconds: float) -> None:
        """``guard`` took so long for a batch of ``size`` conversations."""
        self._batch.labels(guard).observe(size)
        self._guard_seconds.labels(guard).observe(seconds)

    def first_text(self, seconds: float) -> None:
        """A stream released its first text so long after it had any."""
        self._first_text.observe(seconds)

    def window(self, seconds: float) -> None:
        """A window of a stream had its verdict so long after it was complete."""
        self._window.observe(seconds)

    def first_hit(self, seconds: float) -> None:
        """A stream was stopped so long after the window was complete that stopped it."""
        self._first_hit.observe(seconds)

    def upstream(self, seconds: float) -> None:
        """The upstream began to answer after so long."""
        self._upstream.observe(seconds)

    def upstream_failed(self, reason: str) -> None:
        """The upstream gave no good answer, for ``connect``, ``timeout``, ``status``, ``garbage`` or ``cut``."""
        self._upstream_errors.labels(self._bounded("upstream", reason)).inc()

    def policy_problems(self, names: Iterable[str]) -> None:
        """The policies whose file is broken now; their last good form is in force."""
        self._policy_problems.set(len(list(names)))

    def audit_failed(self) -> None:
        """The audit log could not be written this time."""
        self._audit_errors.inc()

    def audit_lost(self, count: int) -> None:
        """So many decisions will never stand in the audit log."""
        self._audit_lost.inc(count)

    def render(self) -> tuple[bytes, str]:
        """The series of all workers in Prometheus' text format, and its content type."""
        if self._folder is None:
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        _forget_dead(Path(self._folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _bounded(self, label: str, value: str) -> str:
        """The value, or ``OTHER`` where the label has as many as it may: a series more is memory for good."""
        known = self._values[label]
        if value not in known:
            if len(known) >= _MOST:
                return OTHER
            known.add(value)
        return value


@contextmanager
def several_workers() -> Iterator[None]:
    """A fresh folder in which the workers that are started inside count together; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="libra-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def _forget_dead(folder: Path) -> None:
    """Takes out the queue depths of workers that are gone: nobody else would set them back to nothing."""
    for pid in {int(match[1]) for file in folder.iterdir() if (match := _LIVE.fullmatch(file.name))}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            # Another worker may be clearing up at the same moment.
            with suppress(FileNotFoundError):
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass
