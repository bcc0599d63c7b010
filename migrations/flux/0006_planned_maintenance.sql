-- Planned work at a station, as the runbook edge_maintenance_window records it: who, why, from when, until when.
-- Missing telemetry inside of a plan is explained by it. What exceeds the plan is not: a row explains the time from
-- started_at to planned_until, or to ended_at when the work ended earlier.
CREATE TABLE flux.mg_maintenance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site text NOT NULL CHECK (site <> ''),
    started_at timestamptz NOT NULL,
    planned_until timestamptz NOT NULL CHECK (planned_until > started_at),
    ended_at timestamptz CHECK (ended_at >= started_at),
    reason text NOT NULL CHECK (reason <> ''),
    owner text NOT NULL CHECK (owner <> ''),
    run_id text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE flux.mg_maintenance IS 'Planned work at stations; ended_at is null while nobody has ended it';
COMMENT ON COLUMN flux.mg_maintenance.recorded_at IS 'when the row was made: later than started_at if the database was away';

-- A station is under one plan at a time.
CREATE UNIQUE INDEX mg_maintenance_one_open ON flux.mg_maintenance (site) WHERE ended_at IS NULL;
CREATE INDEX mg_maintenance_site_time ON flux.mg_maintenance (site, started_at);

GRANT SELECT, INSERT, UPDATE ON flux.mg_maintenance TO flux_operator;
GRANT SELECT ON flux.mg_maintenance TO flux_reader;
