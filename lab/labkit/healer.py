"""Ends one fault when its time has passed; a process of its own that outlives whoever made the fault."""

import json
import sys
import time

from labkit import cgroups, faults
from labkit.record import locked, read_json


def main(lab: str, noted: str) -> None:
    """Sleep until the fault is over and end it, unless it was ended or replaced meanwhile."""
    fault = faults.Fault(**json.loads(noted))
    while (rest := fault.until - time.time()) > 0:
        time.sleep(rest)
    with locked(lab):
        if read_json(fault.file) == json.loads(noted):
            faults.heal(fault, cgroups.detect())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
