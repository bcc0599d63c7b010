"""Health of hosts, and of a system from the health of its parts."""
