"""What the audit costs a play: the time that its callback takes of the wall time of the whole run.

    python bench/audit_overhead.py inventories/flux site
    python bench/audit_overhead.py inventories/flux check_health -e target=wlce

Runs the playbook as ansible-playbook does, in one process, with a clock around every call of the audit's
callback, its loading, and the copies in the database that it waits for at the end. The lab must be up. Fails
when the share is above 3 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

LIMIT_PERCENT = 3.0


def main() -> int:
    """Run the playbook and print the share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inventory")
    parser.add_argument("playbook")
    parsed, options = parser.parse_known_args()
    began = time.monotonic()
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    # Ansible reads its configuration when it is imported, from where it is run.
    from ansible.cli.playbook import PlaybookCLI
    from ansible.plugins.loader import callback_loader

    load = callback_loader.get

    def loaded(name: str, *arguments: Any, **keywords: Any) -> Any:
        started = time.monotonic()
        plugin = load(name, *arguments, **keywords)
        if getattr(plugin, "CALLBACK_NAME", "") == "audit":
            spent["loading"] += time.monotonic() - started
            calls["loading"] += 1
            for method in [one for one in vars(plugin) if one == "__init__" or one.startswith("v2_")]:
                setattr(plugin, method, _timed(getattr(plugin, method), method, spent, calls))
        return plugin

    callback_loader.get = loaded
    words = ["ansible-playbook", "-i", parsed.inventory, f"playbooks/{parsed.playbook}.yml", *options]
    try:
        PlaybookCLI.cli_executor(words)
    except SystemExit as ended:
        code = ended.code
    wall = time.monotonic() - began
    taken = sum(spent.values())
    for name, seconds in sorted(spent.items(), key=lambda entry: -entry[1]):
        print(f"  {name:<32} {calls[name]:>5} calls {seconds:>8.3f} s")
    share = 100 * taken / wall
    print(f"audit: {taken:.2f} s of {wall:.1f} s, {share:.2f} % (limit {LIMIT_PERCENT} %)")
    return 1 if code or share > LIMIT_PERCENT or not calls["loading"] else 0


def _timed(
    method: Callable[..., Any], name: str, spent: dict[str, float], calls: dict[str, int]
) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        started = time.monotonic()
        try:
            return method(*arguments, **keywords)
        finally:
            spent[name] += time.monotonic() - started
            calls[name] += 1

    return timed


if __name__ == "__main__":
    sys.exit(main())
