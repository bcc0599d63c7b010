"""A database that several hosts hold: who is primary, who follows, and what must not happen."""
