"""Modbus exception answers. Pure."""

from __future__ import annotations

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, DEVICE_FAILURE = 1, 2, 3, 4
ACKNOWLEDGE, BUSY, TARGET_SILENT = 5, 6, 11


class DeviceException(Exception):  # noqa: N818 - Modbus calls it an exception, and it is an answer, not a fault
    """A Modbus exception answer; `code` is its number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Modbus exception {code}")
        self.code = code


class WriteRefusedError(ValueError):
    """A value that the device does not accept (Modbus exception 3)."""
