"""Simulated batteries and meters that speak Modbus TCP."""
