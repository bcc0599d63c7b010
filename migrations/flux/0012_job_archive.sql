-- Runs of jobs that are long over: the job table stays small, and nothing is lost.

CREATE TABLE flux.mg_etl_job_archive (
    LIKE flux.mg_etl_job INCLUDING COMMENTS,
    archived_at timestamptz NOT NULL DEFAULT now(),
    -- No identity: a row keeps the number that it had.
    PRIMARY KEY (id)
);

COMMENT ON TABLE flux.mg_etl_job_archive IS 'Runs of scheduled jobs that database_maintain_monthly has moved here';

CREATE INDEX mg_etl_job_archive_name_time ON flux.mg_etl_job_archive (job_name, started_at DESC);

GRANT SELECT ON flux.mg_etl_job_archive TO flux_reader, flux_operator;
