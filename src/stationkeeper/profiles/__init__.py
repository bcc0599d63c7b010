"""Device profiles: the contract of a device type."""
