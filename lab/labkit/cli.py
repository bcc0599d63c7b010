"""Command line of the lab."""

import argparse
import os
import signal
import sys

from labkit import cgroups, faults, inventory, lab, record, status
from labkit.errors import LabError
from labkit.output import say


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="labctl",
        description="Real Debian 13 hosts on this computer, one for each host of an inventory.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("inventory", help="inventory folder with hosts.yml; its name is the lab's name")
        return added

    up = command("up", "boot all hosts that are not running")
    up.add_argument("--hosts", default="", metavar="A,B", help="only these hosts")
    up.add_argument("--fresh", action="store_true", help="throw the hosts' disks away first")

    down = commands.add_parser("down", help="stop a lab", description="Stop a lab and remove its network.")
    down.add_argument("inventory", nargs="?", help="inventory folder or lab name")
    down.add_argument("--all", action="store_true", help="all labs of this computer")
    down.add_argument("--purge", action="store_true", help="delete the hosts' disks too")

    state = command("status", "show the hosts and the faults in force")
    state.add_argument("--json", action="store_true", help="for programs")

    def fault(name: str, text: str, seconds: int | None = None) -> argparse.ArgumentParser:
        added = command(name, text)
        added.add_argument("host")
        added.add_argument(
            "--for",
            dest="seconds",
            type=int,
            metavar="SECONDS",
            required=seconds is None,
            default=seconds,
            help="the fault ends by itself after this time",
        )
        return added

    cut = fault("cut", "cut a host's network to the other hosts")
    cut.add_argument("--peer", help="only to this host")
    cut.add_argument(
        "--control", action="store_true", help="cut it from the control node and the internet too"
    )
    fault("power-cut", "take the power from a host", seconds=5)
    fault("freeze", "stop all processes of a host where they stand")
    fill = fault("fill-disk", "fill the disk of a host (needs lab_disk_mb)")
    fill.add_argument("--path", default="/var/lib", help="folder for the file that fills the disk")

    heal = command("heal", "end all faults now")
    heal.add_argument("host", nargs="?", help="only of this host")

    execute = command("exec", "run a command as root in a host, past its network")
    execute.add_argument("host")
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- CMD")
    return top


def run(options: argparse.Namespace) -> int:
    """Do what the options say; `LabError` when it cannot be done."""
    if os.geteuid() != 0:
        raise LabError("labctl must run as root: run it again with sudo")
    if options.command == "down":
        return _down(options)
    described = inventory.read(options.inventory)
    if options.command == "up":
        names = tuple(name for name in options.hosts.split(",") if name)
        lab.up(described, names, options.fresh)
    elif options.command == "status":
        status.show(status.of_lab(described), options.json)
    elif options.command == "exec":
        words = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        if not words:
            raise LabError("exec needs a command: labctl exec INVENTORY HOST -- CMD")
        return status.execute(described, described.host(options.host), words)
    elif options.command == "heal":
        with record.locked(described.name):
            ended = faults.heal_all(described.name, cgroups.detect(), options.host)
        say(f"{len(ended)} faults ended")
    else:
        _fault(options, described)
    return 0


def _down(options: argparse.Namespace) -> int:
    if bool(options.inventory) == options.all:
        raise LabError("down needs an inventory folder (or a lab name), or --all")
    names = lab.labs_to_end() if options.all else [inventory.lab_name(options.inventory)]
    for name in names:
        lab.down(name, options.purge)
    return 0


def _fault(options: argparse.Namespace, described: inventory.Lab) -> None:
    host = described.host(options.host)
    with record.locked(described.name):
        faults.heal_overdue(described.name, cgroups.detect())
        if options.command == "cut":
            peer = described.host(options.peer) if options.peer else None
            made = faults.cut(described, host, options.seconds, peer, options.control)
        elif options.command == "power-cut":
            made = faults.power_cut(described, host, options.seconds)
        elif options.command == "freeze":
            made = faults.freeze(described, host, options.seconds)
        else:
            made = faults.fill_disk(described, host, options.seconds, options.path)
    say(made.describe())


def _interrupted(_number: int, _frame: object) -> None:
    os.write(2, b"labctl: interrupted; run the same command again to go on\n")
    os._exit(130)


def main(arguments: list[str]) -> int:
    """Run labctl; 0 done, 1 not possible (with a message), 2 wrong use, 130 interrupted."""
    # Programs of the lab lie in sbin, which is not on everybody's PATH.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    # All that labctl does can be taken up again, so an interrupt ends it at once, with all its threads.
    signal.signal(signal.SIGINT, _interrupted)
    try:
        return run(parser().parse_args(arguments))
    except LabError as error:
        print(f"labctl: {error}", file=sys.stderr)
        return 1
