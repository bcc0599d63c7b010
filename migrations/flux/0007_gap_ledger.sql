-- What is missing, what became of it, and how much is there: the ledger of gaps, where recovered rows came from,
-- hourly coverage, and rows whose values cannot be true.

-- Trusted: the owner of the database may create it. It lets the ledger exclude overlapping spans of one device.
CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA public;

-- One row for each gap. A span is open at both ends: the row before it and the row after it, or an edge of what was
-- looked at, do not belong to it.
CREATE TABLE flux.mg_gap_ledger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id uuid NOT NULL,
    span tstzrange NOT NULL CHECK (
        lower(span) IS NOT NULL AND upper(span) IS NOT NULL AND NOT lower_inc(span) AND NOT upper_inc(span)),
    expected bigint NOT NULL CHECK (expected >= 1),
    state text NOT NULL DEFAULT 'open' CHECK (state IN (
        'open', 'claimed', 'recovered', 'partial', 'unrecoverable', 'explained', 'expired')),
    source text,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    recovered_rows bigint NOT NULL DEFAULT 0 CHECK (recovered_rows >= 0),
    reason text,
    lease_owner text,
    lease_until timestamptz,
    evidence jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(evidence) = 'object'),
    found_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK (state <> 'claimed' OR (lease_owner IS NOT NULL AND lease_until IS NOT NULL)),
    -- Nothing counts as explained without a reason.
    CHECK (state NOT IN ('unrecoverable', 'explained', 'expired') OR coalesce(reason, '') <> ''),
    CONSTRAINT mg_gap_ledger_no_overlap
        EXCLUDE USING gist (device_id WITH =, span WITH &&) WHERE (state IN ('open', 'claimed'))
);

COMMENT ON TABLE flux.mg_gap_ledger IS 'Missing telemetry and what became of it';
COMMENT ON COLUMN flux.mg_gap_ledger.expected IS 'estimate of the rows that were missing when the gap was found';
COMMENT ON COLUMN flux.mg_gap_ledger.attempts IS 'how often it was claimed; tells one lease from the next';

CREATE INDEX mg_gap_ledger_device_time ON flux.mg_gap_ledger (device_id, lower(span));
CREATE INDEX mg_gap_ledger_to_do ON flux.mg_gap_ledger (upper(span)) WHERE state IN ('open', 'claimed');

-- Where recovered rows came from. A batch is committed together with its rows.
CREATE TABLE flux.mg_backfill_batch (
    id uuid PRIMARY KEY,
    ledger_id bigint REFERENCES flux.mg_gap_ledger (id),
    device_id uuid NOT NULL,
    span tstzrange NOT NULL CHECK (NOT isempty(span)),
    source text NOT NULL CHECK (source <> ''),
    rows_in bigint NOT NULL CHECK (rows_in >= 0),
    rows_new bigint NOT NULL CHECK (rows_new >= 0 AND rows_new <= rows_in),
    conflicts bigint NOT NULL DEFAULT 0 CHECK (conflicts >= 0),
    hash text NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX mg_backfill_batch_device_time ON flux.mg_backfill_batch (device_id, lower(span));

-- A source that offered other values than those that are stored. The stored ones stay.
CREATE TABLE flux.mg_backfill_conflict (
    batch_id uuid NOT NULL REFERENCES flux.mg_backfill_batch (id),
    device_id uuid NOT NULL,
    time timestamptz NOT NULL,
    stored jsonb NOT NULL,
    offered jsonb NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, device_id, time)
);

-- Rows there in each hour. An hour without a row has none here. No two rows of an hour are further apart than `widest`.
CREATE TABLE flux.mg_coverage_hourly (
    device_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    rows bigint NOT NULL CHECK (rows > 0),
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL CHECK (last_time >= first_time),
    widest interval NOT NULL,
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_id, hour)
);

COMMENT ON TABLE flux.mg_coverage_hourly IS 'Rows that were there at refreshed_at; it outlives the readings themselves';

-- Up to where every gap of a device has been found and recorded.
CREATE TABLE flux.mg_coverage_state (
    device_id uuid PRIMARY KEY,
    verified_until timestamptz NOT NULL
);

-- Copies of rows with values that cannot be true. The reading itself is not deleted.
CREATE TABLE flux.mg_quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id uuid NOT NULL,
    time timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind <> ''),
    row jsonb NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    found_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution text,
    CHECK ((resolved_at IS NULL) = (resolution IS NULL)),
    UNIQUE (device_id, time, kind)
);

CREATE INDEX mg_quarantine_waiting ON flux.mg_quarantine (found_at) WHERE resolved_at IS NULL;

GRANT SELECT, INSERT, UPDATE ON
    flux.mg_gap_ledger, flux.mg_backfill_batch, flux.mg_backfill_conflict,
    flux.mg_coverage_hourly, flux.mg_coverage_state, flux.mg_quarantine
TO flux_operator;
GRANT SELECT ON
    flux.mg_gap_ledger, flux.mg_backfill_batch, flux.mg_backfill_conflict,
    flux.mg_coverage_hourly, flux.mg_coverage_state, flux.mg_quarantine
TO flux_reader;

-- A back-fill adds readings. Nobody but the owner changes or deletes one.
GRANT INSERT ON flux.mg_bess_readings, flux.mg_meter_readings TO flux_operator;
