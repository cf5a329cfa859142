"""The SDK's runtime in a process of ours: its heartbeats, its logs among ours, and its metrics for Prometheus."""

import logging
from datetime import timedelta
from functools import lru_cache

from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

HEARTBEAT = timedelta(seconds=5)
"""How often a worker reports to the cluster that it lives."""


@lru_cache(maxsize=1)
def runtime(metrics: str | None = None) -> Runtime:
    """Return the runtime of this process. ``metrics``: the ``host:port`` at which Prometheus reads ``/metrics``."""
    return Runtime(
        telemetry=TelemetryConfig(
            logging=LoggingConfig(
                TelemetryFilter(core_level="WARN", other_level="ERROR"),
                forwarding=LogForwardingConfig(logging.getLogger("temporalio.core"), append_target_to_name=False),
            ),
            metrics=PrometheusConfig(bind_address=metrics) if metrics else None,
        ),
        worker_heartbeat_interval=HEARTBEAT,
    )
