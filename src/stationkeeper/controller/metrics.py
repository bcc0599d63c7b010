"""Prometheus metrics of the controller, in a registry of their own."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from stationkeeper.controller.components import PRIORITY
from stationkeeper.controller.modes import SAFE_MODE_REASONS, Cause, Holds, Moment, Seen
from stationkeeper.controller.orders import KINDS, OrderState
from stationkeeper.modbus.outcome import Outcome

CYCLE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Everything that the controller tells. Label ``site`` is on all; times are Unix seconds."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.registry = CollectorRegistry()
        self._device_power = self._gauge("device_power_kw", "Measured power, + discharges", "device", "type")
        self._device_soe = self._gauge("device_soe_percent", "State of energy of a battery", "device")
        self._device_setpoint = self._gauge("device_setpoint_kw", "Commanded power, + discharges", "device")
        self._last_sample = self._gauge(
            "last_sample_timestamp_seconds", "Time of the last answer of a device", "device"
        )
        self._last_upload = self._gauge("last_upload_timestamp_seconds", "Time of the last committed upload")
        self._buffer_rows = self._gauge("buffer_rows", "Rows that wait for the database")
        self._buffer_bytes = self._gauge("buffer_bytes", "Bytes of the store in use")
        self._buffer_writable = self._gauge("buffer_writable", "1 while the store takes samples")
        self._uploaded = self._counter("rows_uploaded", "Rows that the database has committed")
        self._conflicting = self._counter("rows_conflicting", "Uploaded rows that the database had already")
        self._rejected = self._counter(
            "rows_rejected", "Rows that the database refused and that were set aside"
        )
        self._dropped = self._counter("rows_dropped", "Oldest rows given up because the store was full")
        self._lost = self._counter("samples_lost", "Samples that never reached the store")
        self._corrected = self._counter(
            "rows_corrected", "Rows whose time was corrected when the clock was set"
        )
        self._known_gaps = self._gauge("known_gaps_waiting", "Known gaps that the database was not told yet")
        self._cycle = Histogram(
            "stationkeeper_cycle_duration_seconds",
            "Duration of a control cycle",
            ["site"],
            registry=self.registry,
            buckets=CYCLE_BUCKETS_S,
        ).labels(site)
        self._component = self._gauge(
            "control_component", "1 for the component that settles the set-point", "component"
        )
        self._latched = self._gauge("emergency_stop_latched", "1 while the emergency-stop latch stands")
        self._safe_mode = self._gauge("safe_mode", "1 while this reason holds safe mode", "device", "reason")
        self._zero_verified = self._gauge(
            "zero_verified", "1 while 0 kW is read back and measured in three fresh samples", "device"
        )
        self._maintenance = self._gauge("maintenance", "1 during maintenance")
        self._idle = self._gauge("idle", "1 while the station waits at 0 kW for a fresh set-point")
        self._order_present = self._gauge("order_present", "1 while there is an order of a kind", "order")
        self._order_until = self._gauge(
            "order_until_timestamp_seconds", "End of an order that has one, also of one that ran out", "order"
        )
        self._setpoint_valid = self._gauge("setpoint_valid", "1 while an ordered set-point is followed")
        self._setpoint_ordered = self._gauge(
            "setpoint_ordered_kw", "Ordered power of the station, 0 if not valid"
        )
        self._synchronised = self._gauge("clock_synchronised", "1 while the wall clock can be trusted")
        self._modbus_errors = self._counter(
            "modbus_errors", "Failed exchanges with a device by outcome", "device", "outcome"
        )
        self._config_valid = self._gauge("config_valid", "0 while the last good configuration is in force")
        self._config_info = self._gauge("config_info", "Hash of the configuration in force", "hash")
        self._poll_interval = self._gauge("poll_interval_seconds", "Time between samples")
        # A series that begins with its first event hides that event from increase().
        for counter in (
            self._uploaded,
            self._conflicting,
            self._rejected,
            self._dropped,
            self._lost,
            self._corrected,
        ):
            counter.labels(site)
        self.buffer(0, 0)
        self.buffer_writable(True)
        self.deciding(set())

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"stationkeeper_{name}", text, ["site", *labels], registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"stationkeeper_{name}", text, ["site", *labels], registry=self.registry)

    def serve(self, address: str, port: int) -> int:
        """Answer Prometheus from a thread and return the port (useful with port 0). Raises OSError."""
        server, _ = start_http_server(port, address, self.registry)
        return int(server.server_port)

    def sample(
        self, device: str, kind: str, *, power_kw: float | None, soe_percent: float | None, at_s: float
    ) -> None:
        """Tell one answer of a device; a value that it does not have leaves no series."""
        for gauge, value, labels in (
            (self._device_power, power_kw, (self.site, device, kind)),
            (self._device_soe, soe_percent, (self.site, device)),
        ):
            if value is not None:
                gauge.labels(*labels).set(value)
            else:
                gauge.remove(*labels)
        self._last_sample.labels(self.site, device).set(at_s)

    def setpoint(self, device: str, power_kw: float) -> None:
        """Tell a battery's commanded power."""
        self._device_setpoint.labels(self.site, device).set(power_kw)

    def forget_devices(self) -> None:
        """Drop the series of all devices, before others are configured."""
        for gauge in (
            self._device_power,
            self._device_soe,
            self._device_setpoint,
            self._last_sample,
            self._safe_mode,
            self._zero_verified,
        ):
            gauge.clear()

    def expect_device(self, device: str) -> None:
        """Begin the error counters of a configured device at 0, so that its first error is an increase."""
        for outcome in (Outcome.UNREACHABLE, Outcome.UNKNOWN, Outcome.REJECTED):
            self._modbus_errors.labels(self.site, device, outcome.value)

    def deciding(self, components: set[str]) -> None:
        """Tell the components that settle the set-points of the batteries."""
        for component in PRIORITY:
            self._component.labels(self.site, component).set(component in components)

    def holds(self, seen: Seen, holds: Holds, moment: Moment) -> None:
        """Tell what holds the station, and what it was ordered."""
        self._latched.labels(self.site).set(holds.latch is not None)
        self._maintenance.labels(self.site).set(holds.maintenance is not None)
        self._idle.labels(self.site).set(holds.idle is not None)
        self._synchronised.labels(self.site).set(moment.synchronised)
        for kind in KINDS:
            state = seen.orders.get(kind, OrderState())
            self._order_present.labels(self.site, kind).set(state != OrderState())
            if state.order is not None and state.order.until is not None:
                self._order_until.labels(self.site, kind).set(state.order.until.timestamp())
            else:
                self._order_until.remove(self.site, kind)
        setpoint = holds.setpoint
        self._setpoint_valid.labels(self.site).set(setpoint is not None and setpoint.valid)
        self._setpoint_ordered.labels(self.site).set(setpoint.power_kw if setpoint is not None else 0)

    def safe_mode(self, device: str, causes: Sequence[Cause]) -> None:
        """Tell why a battery is in safe mode; nothing while it is not."""
        present = {cause.code for cause in causes}
        for reason in SAFE_MODE_REASONS:
            self._safe_mode.labels(self.site, device, reason).set(reason in present)

    def zero_verified(self, device: str, verified: bool) -> None:
        """Tell whether a battery is proven to stand at zero."""
        self._zero_verified.labels(self.site, device).set(verified)

    def modbus_error(self, device: str, outcome: str) -> None:
        """Count a failed exchange."""
        self._modbus_errors.labels(self.site, device, outcome).inc()

    def cycle(self, duration_s: float) -> None:
        """Tell the duration of a control cycle."""
        self._cycle.observe(duration_s)

    def config(self, *, valid: bool, hash: str, poll_interval_s: float) -> None:
        """Tell the configuration in force, and whether the files are it."""
        self._config_valid.labels(self.site).set(valid)
        self._config_info.clear()
        self._config_info.labels(self.site, hash).set(1)
        self._poll_interval.labels(self.site).set(poll_interval_s)

    def buffer(self, rows: int, bytes_in_use: int) -> None:
        """Tell how much waits."""
        self._buffer_rows.labels(self.site).set(rows)
        self._buffer_bytes.labels(self.site).set(bytes_in_use)

    def buffer_writable(self, writable: bool) -> None:
        """Tell whether the store takes samples."""
        self._buffer_writable.labels(self.site).set(writable)

    def dropped(self, rows: int) -> None:
        """Count rows given up by a full store."""
        self._dropped.labels(self.site).inc(rows)

    def lost(self, samples: int) -> None:
        """Count samples that never reached the store."""
        self._lost.labels(self.site).inc(samples)

    def corrected(self, rows: int) -> None:
        """Count rows that got their true time."""
        self._corrected.labels(self.site).inc(rows)

    def known_gaps(self, waiting: int) -> None:
        """Tell how many known gaps wait for the database."""
        self._known_gaps.labels(self.site).set(waiting)

    def upload(self, *, uploaded: int, conflicting: int, rejected: int, at_s: float) -> None:
        """Count the rows of a batch by what became of them."""
        self._uploaded.labels(self.site).inc(uploaded)
        self._conflicting.labels(self.site).inc(conflicting)
        self._rejected.labels(self.site).inc(rejected)
        if uploaded or conflicting:
            self._last_upload.labels(self.site).set(at_s)
