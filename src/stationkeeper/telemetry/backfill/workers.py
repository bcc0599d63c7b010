"""Several workers in one process, each with connections of its own; the ledger's leases keep them apart."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import Any

from stationkeeper.telemetry.backfill.engine import Options, Outcome, Recovery, Shared
from stationkeeper.telemetry.backfill.pacing import Throttle
from stationkeeper.telemetry.backfill.progress import Progress
from stationkeeper.telemetry.backfill.sources import Source
from stationkeeper.telemetry.source import connected


def recover(
    settings: Mapping[str, Any],
    make_sources: Callable[[], Sequence[Source]],
    options: Options,
    *,
    workers: int = 2,
    throttle: Throttle | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Recover with ``workers`` threads. Raises TelemetryError when one fails; the others stop then."""
    shared = Shared()
    owner = f"{socket.gethostname()}:{os.getpid()}"

    def work(number: int) -> Outcome:
        with ExitStack() as stack:
            sources = [stack.enter_context(closing(source)) for source in make_sources()]
            connection = stack.enter_context(connected(settings))
            worker = Recovery(
                connection,
                sources,
                owner=f"{owner}:{number}",
                options=options,
                throttle=throttle,
                progress=progress,
                shared=shared,
            )
            return worker.run()

    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(work, number) for number in range(workers)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also after Ctrl-C: the slices at hand are finished, the leases given back.
            if not all(future.done() and future.exception() is None for future in futures):
                shared.stop.set()
    total = Outcome()
    for future in futures:
        total.add(future.result())
    return total
