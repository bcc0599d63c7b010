"""Figures of jobs for Prometheus, as files that node_exporter's textfile collector reads.

Three files for each job: about the begin of its last run, its end, and its last success. So a failure leaves
the figures of the last success, and the time they are from, as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from stationkeeper.files import write_atomically
from stationkeeper.jobs.interface import JobResult, Sample


def write_start(directory: Path, name: str) -> None:
    """Write when a run of a job began. Raises OSError."""
    began = Sample(
        "stationkeeper_job_started_timestamp_seconds",
        "When the last run began",
        time.time(),
        {"job_name": name},
    )
    _write(directory / f"stationkeeper_job_{name}_start.prom", [began])


def write_run(directory: Path, name: str, duration_s: float, *, completed: bool) -> None:
    """Write how the last run of a job ended and when. Raises OSError."""
    job = {"job_name": name}
    samples = [
        Sample(
            "stationkeeper_job_last_run_success", "1 when the last run of the job completed", completed, job
        ),
        Sample("stationkeeper_job_ended_timestamp_seconds", "When the last run ended", time.time(), job),
        Sample("stationkeeper_job_duration_seconds", "How long the last run took", duration_s, job),
    ]
    _write(directory / f"stationkeeper_job_{name}.prom", samples)


def write_success(directory: Path, name: str, result: JobResult) -> None:
    """Write when a job last completed, how much it did, and what it found. Raises OSError."""
    job = {"job_name": name}
    samples = [
        Sample(
            "stationkeeper_job_last_success_timestamp_seconds",
            "When the job last completed",
            time.time(),
            job,
        ),
        Sample("stationkeeper_job_records", "Records of the last completed run", result.records, job),
        *result.metrics,
    ]
    _write(directory / f"stationkeeper_job_{name}_success.prom", samples)


def _write(path: Path, samples: Iterable[Sample]) -> None:
    # The exporter runs as another user.
    write_atomically(path, text(samples), mode=0o644)


def text(samples: Iterable[Sample]) -> bytes:
    """Return samples in Prometheus' text format; samples of one name have the same help and label names."""
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for sample in samples:
        if sample.name not in gauges:
            gauges[sample.name] = Gauge(sample.name, sample.help, sorted(sample.labels), registry=registry)
        gauge = gauges[sample.name]
        (gauge.labels(**sample.labels) if sample.labels else gauge).set(sample.value)
    return generate_latest(registry)
