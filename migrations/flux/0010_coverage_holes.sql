-- Hourly coverage knows where its holes are, so that a long window is answered from an index: readings are asked only
-- whether something has come into a known hole since.

-- What stood there before knows of no hole: where `steady` is too long, the readings of that hour are asked.
ALTER TABLE flux.mg_coverage_hourly
    ADD COLUMN steady interval,
    ADD COLUMN holes tstzrange[] NOT NULL DEFAULT '{}',
    ADD COLUMN apart interval;

UPDATE flux.mg_coverage_hourly AS c
SET steady = c.widest, apart = greatest(c.widest, c.first_time - p.before)
FROM (
    SELECT device_id, hour, lag(last_time) OVER (PARTITION BY device_id ORDER BY hour) AS before
    FROM flux.mg_coverage_hourly) AS p
WHERE p.device_id = c.device_id AND p.hour = c.hour;

UPDATE flux.mg_coverage_hourly AS c
SET apart = NULL
WHERE NOT EXISTS (
    SELECT FROM flux.mg_coverage_hourly AS p WHERE p.device_id = c.device_id AND p.hour < c.hour);

ALTER TABLE flux.mg_coverage_hourly ALTER COLUMN steady SET NOT NULL;

COMMENT ON COLUMN flux.mg_coverage_hourly.holes IS 'distances between two rows of the hour that were too long';
COMMENT ON COLUMN flux.mg_coverage_hourly.steady IS 'the longest distance between two rows of the hour beside its holes';
COMMENT ON COLUMN flux.mg_coverage_hourly.apart IS
    'the longest distance of all, also from the last row known before the hour to its first; null when none was known';

-- All that an answer needs of an hour without a question stands in the index: an hour's rows of a fleet lie together
-- in the table, so those of one device are far apart.
ALTER TABLE flux.mg_coverage_hourly
    DROP CONSTRAINT mg_coverage_hourly_pkey,
    ADD CONSTRAINT mg_coverage_hourly_pkey PRIMARY KEY (device_id, hour) INCLUDE (rows, apart);

-- The newest days are asked for most. By default a fifth of the table would be new before an index may be believed.
ALTER TABLE flux.mg_coverage_hourly
    SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000);
