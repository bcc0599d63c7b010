"""The last 24 hours of telemetry in Redis: a cache that can be made anew from the database at any time."""
