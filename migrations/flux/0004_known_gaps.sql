-- Samples that a controller took and had to give up: the gap in the readings is known and has a cause, and no
-- back-fill will close it. The sequence numbers are exact; the times are those that the samples had.
CREATE TABLE flux.mg_known_gaps (
    device_id uuid NOT NULL,
    boot_id uuid NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL CHECK (last_seq >= first_seq),
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL,
    samples bigint NOT NULL CHECK (samples > 0),
    reason text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_id, boot_id, first_seq)
);

COMMENT ON TABLE flux.mg_known_gaps IS 'Samples given up by a controller, by sequence number, both ends included';

CREATE INDEX mg_known_gaps_device_time ON flux.mg_known_gaps (device_id, first_time);

-- UPDATE too: a gap grows while the store stays full.
GRANT SELECT, INSERT, UPDATE ON flux.mg_known_gaps TO flux_writer;
GRANT SELECT ON flux.mg_known_gaps TO flux_reader, flux_operator;
