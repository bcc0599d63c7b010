-- Scheduled work and what became of each run, and the role that does it.

CREATE TABLE flux.mg_etl_job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_name text NOT NULL CHECK (job_name <> ''),
    status text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'completed', 'failed', 'stopped')),
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    records_processed bigint CHECK (records_processed >= 0),
    host text NOT NULL,
    unit text,
    process_id integer NOT NULL,
    backend_pid integer NOT NULL,
    backend_start timestamptz NOT NULL,
    error text,
    evidence jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(evidence) = 'object'),
    CHECK ((status = 'running') = (completed_at IS NULL)),
    -- Nothing failed or was stopped without a reason, and what was completed says how much it did.
    CHECK (status NOT IN ('failed', 'stopped') OR coalesce(error, '') <> ''),
    CHECK (status <> 'completed' OR records_processed IS NOT NULL)
);

COMMENT ON TABLE flux.mg_etl_job IS 'One row for each run of a scheduled job';
COMMENT ON COLUMN flux.mg_etl_job.backend_pid IS
    'the session that holds the advisory lock of the job while it runs; with backend_start it is that one only';
COMMENT ON COLUMN flux.mg_etl_job.heartbeat_at IS 'moved by the run itself, by the clock of the database';

CREATE INDEX mg_etl_job_name_time ON flux.mg_etl_job (job_name, started_at DESC);
CREATE INDEX mg_etl_job_running ON flux.mg_etl_job (job_name) WHERE status = 'running';

-- The default privileges of 0001 let flux_reader and flux_operator read it.
GRANT SELECT ON flux.mg_etl_job TO flux_reader, flux_operator;

-- Jobs read telemetry, keep the ledger, the coverage and the quarantine, and their own rows. They delete nothing.
GRANT USAGE ON SCHEMA flux, ops TO flux_jobs;
GRANT SELECT ON
    flux.mg_device_registry, flux.mg_bess_readings, flux.mg_meter_readings, flux.mg_meter_readings_5m_intermediate,
    flux.mg_known_gaps, flux.mg_maintenance, flux.mg_backfill_batch, ops.retention
TO flux_jobs;
GRANT SELECT, INSERT, UPDATE ON
    flux.mg_gap_ledger, flux.mg_coverage_hourly, flux.mg_coverage_state, flux.mg_quarantine, flux.mg_etl_job
TO flux_jobs;
