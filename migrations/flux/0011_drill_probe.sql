-- Rows that a drill writes while it breaks something: what was acknowledged must be there afterwards. A drill removes its
-- own rows at its end.
CREATE TABLE ops.drill_probe (
    run_id text NOT NULL CHECK (run_id <> ''),
    seq bigint NOT NULL CHECK (seq > 0),
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, seq)
);

COMMENT ON TABLE ops.drill_probe IS 'Rows of drills under way, to count what an outage loses';

GRANT SELECT, INSERT, DELETE ON ops.drill_probe TO flux_operator;
