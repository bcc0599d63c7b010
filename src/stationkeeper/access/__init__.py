"""Who can get at a host, and who did."""
