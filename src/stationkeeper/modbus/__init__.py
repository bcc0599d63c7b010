"""Strict Modbus client, register codec and fleet stop."""
