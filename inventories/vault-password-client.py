#!/usr/bin/env python3
"""Tell Ansible the password of a system's vault; ansible.cfg names this script once for each system.

Ansible asks for all of them whenever it starts. For a system whose vault is not here it gets a password that
opens nothing, since a refusal would be a warning in every run of another system.
"""

import argparse
import os
import secrets
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from stationkeeper.secrets.vault import (  # noqa: E402 (found by the path above)
    NEXT_PASSWORD,
    PASSWORD,
    SecretsError,
    folder_of,
    read_password,
)

#: What Ansible takes for "not found", and shows with the reason.
NOT_FOUND = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vault-id", required=True, help="name of the system")
    system = parser.parse_args().vault_id
    # The tests' inventories lie elsewhere.
    folder = folder_of(Path(os.environ.get("STATIONKEEPER_INVENTORIES", HERE)) / system)
    if (folder / NEXT_PASSWORD).exists():
        print(
            f"a change of the password was interrupted: stationkeeper secrets rekey {folder.parents[1]}",
            file=sys.stderr,
        )
        return NOT_FOUND
    try:
        print(read_password(folder) if (folder / PASSWORD).exists() else secrets.token_hex())
    except SecretsError as error:
        print(error, file=sys.stderr)
        return NOT_FOUND
    return 0


if __name__ == "__main__":
    sys.exit(main())
