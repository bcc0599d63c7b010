"""Updates of Debian's packages: what waits, what runs on with what is gone."""
