"""Real Debian hosts on one machine: every host of an inventory is a systemd-nspawn machine."""
