"""PostgreSQL connections and migrations."""
