"""Metrics: instruments of OpenTelemetry's API, made when they are first needed, with attributes of few values.

Nothing is measured until the application has set a meter provider. INVARIANT: an instrument carries the attributes that
the convention gives it and no others, so no user, task, chain or argument becomes a time series.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import metrics as api
from opentelemetry.context import Context
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.util.types import AttributeValue

from agentguard._version import VERSION
from agentguard.telemetry import semconv as name
from agentguard.telemetry.current import SCHEMA, dropped
from agentguard.telemetry.gauges import observe

OTHER: Final = "_OTHER"
MAX_VALUES: Final = 200  # of one attribute; the next ones are all `_OTHER`
_LOOK: Final = 1.0  # seconds between two looks for a provider, while there is none


class Metrics:
    """The instruments of one guard. Safe for concurrent use; nothing of it raises.

    Args:
        provider: whose meter to use; default the global one, once the application has set it.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self.found = False  # whether somebody was found to measure for
        self._provider = provider
        self._meter: Meter | None = None
        self._instruments: dict[str, Any] = {}
        self._values: dict[str, set[AttributeValue]] = {}
        self.look_at = 0.0  # monotonic seconds from which on it is worth looking

    def on(self) -> bool:
        """Whether there is anybody to measure for; looked at once a second until there is."""
        if self.found:
            return True
        now = time.monotonic()
        if now < self.look_at:
            return False
        self.look_at = now + _LOOK
        try:
            self._meter = _meter_of(self._provider or api.get_meter_provider())
        except Exception as error:
            dropped(error)
        self.found = self._meter is not None
        if self._meter is not None:
            self._observe(self._meter)
        return self.found

    @staticmethod
    def _observe(meter: Meter) -> None:
        try:
            observe(meter)
        except Exception as error:
            dropped(error)

    def note(
        self, metric: str, amount: float, attributes: Mapping[str, AttributeValue], context: Context | None = None
    ) -> None:
        """Record one measurement.

        Args:
            metric: its name, a `METRIC_*` of `semconv`.
            amount: what is added, or the value in the metric's unit.
            attributes: what is known; the convention says what of it is carried.
            context: with the span it belongs to, for exemplars.
        """
        if self._meter is None:
            return
        try:
            known = name.INSTRUMENTS[metric]
            carried = {key: self._bounded(key, value) for key, value in attributes.items() if key in known.attributes}
            instrument = self._instruments.get(metric) or self._made(self._meter, metric)
            if known.kind == "histogram":
                instrument.record(max(0.0, amount), carried, context)
            else:
                instrument.add(amount, carried, context)
        except Exception as error:
            dropped(error)

    def _bounded(self, key: str, value: AttributeValue) -> AttributeValue:
        if isinstance(value, bool):
            return value
        seen = self._values.setdefault(key, set())
        if value in seen:
            return value
        if len(seen) >= MAX_VALUES:
            return OTHER
        seen.add(value)
        return value

    def _made(self, meter: Meter, metric: str) -> Any:
        known = name.INSTRUMENTS[metric]
        if known.kind == "histogram":
            made: Any = meter.create_histogram(
                metric, known.unit, known.brief, explicit_bucket_boundaries_advisory=known.buckets
            )
        elif known.kind == "updowncounter":
            made = meter.create_up_down_counter(metric, known.unit, known.brief)
        else:
            made = meter.create_counter(metric, known.unit, known.brief)
        return self._instruments.setdefault(metric, made)


def _meter_of(provider: MeterProvider) -> Meter | None:
    """The API's stand-in is no provider yet: what is recorded with it goes nowhere."""
    if isinstance(provider, NoOpMeterProvider) or type(provider).__name__ == "_ProxyMeterProvider":
        return None
    return provider.get_meter("agentguard", VERSION, SCHEMA)
