"""Incidents: what is known of one, what was done about it, and what comes next."""
