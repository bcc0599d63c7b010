-- A job checks the copies of the audit trail, on a host where no control node works.
GRANT USAGE ON SCHEMA ops TO flux_jobs;
GRANT SELECT ON ops.audit TO flux_jobs;
