"""Argument specifications of the modules modbus_read and modbus_write. Standard library only.

Their documentation (doc_fragments/modbus.py) repeats them, and a test holds them equal.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, dict[str, Any]]

_ORDERS = ["big", "little"]

REGISTER: Spec = {
    "address": {"type": "int"},
    "reference": {"type": "str"},
    "table": {"type": "str", "choices": ["coil", "discrete", "input", "holding"]},
    "type": {
        "type": "str",
        "choices": [
            "int16",
            "uint16",
            "int32",
            "uint32",
            "int64",
            "uint64",
            "float32",
            "float64",
            "bit",
        ],
    },
    "word_order": {"type": "str", "choices": _ORDERS, "default": "big"},
    "byte_order": {"type": "str", "choices": _ORDERS, "default": "big"},
    "scale": {"type": "raw", "default": 1},
    "offset": {"type": "raw", "default": 0},
    "bit": {"type": "int"},
    "mask": {"type": "int"},
    "not_implemented": {"type": "int"},
}

NAMED_REGISTER: Spec = {
    "name": {"type": "str"},
    "engineering_unit": {"type": "str"},
    **REGISTER,
}

CONNECTION: Spec = {
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 502},
    "unit": {"type": "int", "default": 1},
    "transport": {"type": "str", "choices": ["tcp", "rtu_over_tcp", "serial"], "default": "tcp"},
    "serial": {
        "type": "dict",
        "options": {
            "baudrate": {"type": "int", "default": 19200},
            "parity": {"type": "str", "choices": ["N", "E", "O"], "default": "E"},
            "stopbits": {"type": "int", "choices": [1, 2], "default": 1},
            "local_echo": {"type": "bool", "default": False},
        },
    },
    "gateway": {
        "type": "dict",
        "options": {
            "timeout_s": {"type": "float", "required": True},
            "retries": {"type": "int", "default": 0},
        },
    },
    "connect_timeout_s": {"type": "float", "default": 3},
    "response_timeout_s": {"type": "float", "default": 3},
    "busy_timeout_s": {"type": "float", "default": 5},
    "lock_timeout_s": {"type": "float", "default": 10},
    "profile": {"type": "str"},
    "profile_content": {"type": "dict"},
    "profile_path": {"type": "list", "elements": "path", "default": []},
}

VERIFY: Spec = {
    "mode": {"type": "str", "choices": ["register", "readback", "none"]},
    "point": {"type": "str"},
    **NAMED_REGISTER,
    "value": {"type": "raw"},
    "tolerance": {"type": "raw"},
    "window_s": {"type": "float"},
    "interval_s": {"type": "float", "default": 0.5},
    "samples": {"type": "int", "default": 2},
    "hold_s": {"type": "float", "default": 2},
    "other_master_cycle_s": {"type": "float", "default": 1},
}

INTERLOCK: Spec = {
    "kind": {
        "type": "str",
        "required": True,
        "choices": ["condition", "latch", "alarms", "soe_window", "measured_step", "fresh"],
    },
    "point": {"type": "str"},
    **NAMED_REGISTER,
    "value": {"type": "raw"},
    "read_at": {"type": "str"},
    "max_age_s": {"type": "float", "default": 10},
    "equals": {"type": "raw"},
    "not_equals": {"type": "raw"},
    "min": {"type": "raw"},
    "max": {"type": "raw"},
    "max_step": {"type": "raw"},
    "path": {"type": "path", "default": "/var/lib/bess_controller/latch"},
    "when": {
        "type": "str",
        "choices": ["always", "not_towards_zero", "discharging", "charging"],
        "default": "always",
    },
}

WRITE: Spec = {
    "point": {"type": "str"},
    **NAMED_REGISTER,
    "value": {"type": "raw"},
    "min": {"type": "raw"},
    "max": {"type": "raw"},
    "max_step": {"type": "raw"},
    "rounding": {"type": "str", "choices": ["error", "nearest"], "default": "error"},
    "expect": {"type": "raw"},
    "semantic": {"type": "str", "choices": ["level", "refresh", "pulse"], "default": "level"},
    "function": {"type": "str", "choices": ["auto", "5", "6", "15", "16", "22"], "default": "auto"},
    "atomic": {"type": "bool"},
    "write_only": {"type": "bool"},
    "storage": {"type": "str", "choices": ["ram", "flash", "unknown"]},
    "min_write_interval_s": {"type": "float"},
    "zero_is_safe": {"type": "bool"},
    "verify": {"type": "dict", "options": VERIFY},
    "interlocks": {"type": "list", "elements": "dict", "default": [], "options": INTERLOCK},
}

MODBUS_WRITE: Spec = {
    **CONNECTION,
    **WRITE,
    "group": {"type": "list", "elements": "dict"},
    "recipe": {"type": "str", "choices": ["zero_power", "stop", "release", "set_power"]},
    "power_kw": {"type": "raw"},
    "on_partial": {"type": "str", "choices": ["zero_power", "stop", "release", "none"]},
    "write_attempts": {"type": "int", "default": 2},
    "settle_s": {"type": "float"},
    "allow_broadcast": {"type": "bool", "default": False},
    "reason": {"type": "str", "default": ""},
    "ticket": {"type": "str", "default": ""},
}

MODBUS_READ: Spec = {
    **CONNECTION,
    "points": {"type": "list", "elements": "str", "default": []},
    "registers": {"type": "list", "elements": "dict", "default": [], "options": NAMED_REGISTER},
}
