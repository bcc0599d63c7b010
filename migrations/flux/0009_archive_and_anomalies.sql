-- What is archived, retention that waits for it, and values that are unlike those before them.

-- One row for each archive of a site's day in one table of readings, made after the archive was read back.
CREATE TABLE flux.mg_archive_day (
    site text NOT NULL CHECK (site <> ''),
    day date NOT NULL,
    readings text NOT NULL CHECK (readings <> ''),
    location text NOT NULL CHECK (location <> ''),
    rows bigint NOT NULL CHECK (rows >= 0),
    hash text NOT NULL CHECK (hash <> ''),
    verified_at timestamptz NOT NULL DEFAULT now(),
    problem text CHECK (problem <> ''),
    PRIMARY KEY (site, day, readings, location)
);

COMMENT ON TABLE flux.mg_archive_day IS 'Days (UTC) whose rows are in an archive that was read back';
COMMENT ON COLUMN flux.mg_archive_day.location IS 'host:directory; two places may archive the same day';
COMMENT ON COLUMN flux.mg_archive_day.hash IS 'checksum of the archive''s manifest, which has those of its files';
COMMENT ON COLUMN flux.mg_archive_day.problem IS 'what is wrong with the archive since; it does not count then';

-- What an archive is said to hold never changes; only that it was looked at again, and what was found.
CREATE FUNCTION flux.guard_archive_day() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF (NEW.site, NEW.day, NEW.readings, NEW.location, NEW.rows, NEW.hash)
       IS DISTINCT FROM (OLD.site, OLD.day, OLD.readings, OLD.location, OLD.rows, OLD.hash) THEN
        RAISE EXCEPTION 'the record of the archive % of % cannot change', OLD.location, OLD.day;
    END IF;
    RETURN NEW;
END
$function$;

CREATE TRIGGER guard BEFORE UPDATE ON flux.mg_archive_day
    FOR EACH ROW EXECUTE FUNCTION flux.guard_archive_day();

-- The days of [span_start, span_end), widened to whole days, on which a site has rows that no archive holds: none
-- was recorded, or with another number of rows, or it is damaged. Rows that came after the day was dropped are other
-- rows, even when they are as many: only what was verified after that counts for them. Rows of a device that the
-- registry does not know have no site, and are in no archive.
CREATE FUNCTION flux.unarchived_days(readings text, span_start timestamptz, span_end timestamptz)
RETURNS TABLE (day date, site text, rows bigint)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $function$
BEGIN
    RETURN QUERY EXECUTE format($query$
        WITH stored AS (
            SELECT found.day, coalesce(device.site, '') AS site, sum(found.rows)::bigint AS rows
            FROM (
                SELECT reading.time::date AS day, reading.device_id, count(*) AS rows
                FROM %s AS reading WHERE reading.time >= $1 AND reading.time < $2 GROUP BY 1, 2) AS found
            LEFT JOIN flux.mg_device_registry AS device ON device.id = found.device_id
            GROUP BY 1, 2)
        SELECT stored.day, stored.site, stored.rows FROM stored
        WHERE NOT EXISTS (
            SELECT FROM flux.mg_archive_day AS archived
            WHERE archived.readings = $3 AND archived.site = stored.site AND archived.day = stored.day
              AND archived.rows = stored.rows AND archived.problem IS NULL
              AND NOT EXISTS (
                SELECT FROM ops.retention WHERE relation = $4 AND dropped_before > stored.day
                  AND dropped_at >= archived.verified_at))
        ORDER BY 1, 2
        $query$, readings::regclass)
    USING date_trunc('day', span_start), date_trunc('day', span_end - interval '1 microsecond') + interval '1 day',
          split_part(readings, '.', 2), readings;
END
$function$;

COMMENT ON FUNCTION flux.unarchived_days IS 'Days of a span whose rows are in no archive that is known to be whole';

-- Drops the chunks of raw readings that lie wholly before now() - keep, the oldest first, after one last rollup of
-- everything that is about to go. With `archived` it stops before the first chunk with a day that no archive holds:
-- everything before the horizon in ops.retention is gone, and everything after it is there. Returns one row for each
-- hypertable. Only the owner may call it.
CREATE FUNCTION flux.apply_retention(keep interval, archived boolean)
RETURNS TABLE (relation text, chunks_dropped bigint, chunks_waiting bigint, waiting_for text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $function$
DECLARE
    readings text;
    -- Whole days: a day that lies in two chunks goes at once, or the rest of it would have no archive.
    cutoff timestamptz := CASE WHEN archived THEN date_trunc('day', now() - keep) ELSE now() - keep END;
    chunk record;
    oldest timestamptz;
    dropped_until timestamptz;
BEGIN
    IF keep IS NULL OR archived IS NULL OR keep < interval '1 day' THEN
        RAISE EXCEPTION 'readings are kept for at least one day, not %', keep;
    END IF;
    FOREACH readings IN ARRAY ARRAY['flux.mg_bess_readings', 'flux.mg_meter_readings'] LOOP
        relation := readings;
        chunks_dropped := 0;
        chunks_waiting := 0;
        waiting_for := NULL;
        oldest := NULL;
        dropped_until := NULL;
        FOR chunk IN
            SELECT chunk_schema, chunk_name, range_start, range_end FROM timescaledb_information.chunks
            WHERE hypertable_schema || '.' || hypertable_name = readings AND range_end <= cutoff
            ORDER BY range_start
        LOOP
            IF archived AND waiting_for IS NULL THEN
                -- A row that comes between the look and the drop would be lost. Only this chunk is held.
                EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', chunk.chunk_schema, chunk.chunk_name);
                SELECT string_agg(
                    format('%s %s (%s rows)', coalesce(nullif(site, ''), 'unregistered devices'), day, rows), ', ')
                INTO waiting_for
                FROM flux.unarchived_days(readings, chunk.range_start, chunk.range_end);
            END IF;
            IF waiting_for IS NULL THEN
                oldest := coalesce(oldest, chunk.range_start);
                dropped_until := chunk.range_end;
            ELSE
                chunks_waiting := chunks_waiting + 1;
            END IF;
        END LOOP;
        IF dropped_until IS NOT NULL THEN
            IF readings = 'flux.mg_meter_readings' THEN
                PERFORM flux.refresh_meter_readings_5m(oldest, dropped_until);
            END IF;
            SELECT count(*) INTO chunks_dropped
            FROM public.drop_chunks(readings::regclass, older_than => dropped_until);
            INSERT INTO ops.retention AS known (relation, dropped_before)
            VALUES (readings, dropped_until)
            ON CONFLICT ON CONSTRAINT retention_pkey DO UPDATE
            SET dropped_before = greatest(known.dropped_before, excluded.dropped_before), dropped_at = now();
        END IF;
        RETURN NEXT;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION flux.apply_retention(interval, boolean) IS
'Roll up and drop the raw readings that are older than an interval, and with `archived` only what is in an archive';

-- As before: what is older goes, archived or not.
CREATE OR REPLACE FUNCTION flux.apply_retention(keep interval)
RETURNS TABLE (relation text, chunks_dropped bigint)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT relation, chunks_dropped FROM flux.apply_retention(keep, false)
$function$;

-- Fails when rows are older than `keep`, and names what they wait for. It is a statement of its own, after
-- apply_retention has committed: an error there would take the drops of its transaction back.
CREATE FUNCTION flux.require_retention(keep interval)
RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $function$
DECLARE
    waiting text;
BEGIN
    SELECT string_agg(format('%s: %s chunks since %s', due.relation, due.chunks, due.oldest), '; ') INTO waiting
    FROM (
        SELECT hypertable_schema || '.' || hypertable_name AS relation, count(*) AS chunks, min(range_start) AS oldest
        FROM timescaledb_information.chunks
        WHERE hypertable_schema = 'flux' AND hypertable_name IN ('mg_bess_readings', 'mg_meter_readings')
          AND range_end <= date_trunc('day', now() - keep)
        GROUP BY 1) AS due;
    IF waiting IS NOT NULL THEN
        RAISE EXCEPTION 'readings older than % are kept because they are in no archive (%)', keep, waiting
        USING HINT = 'Run telemetry_archive for these days; flux.unarchived_days(table, from, to) lists them.';
    END IF;
END
$function$;

REVOKE EXECUTE ON FUNCTION flux.apply_retention(interval, boolean) FROM PUBLIC;

-- Values that are unlike those before them, and what the other checks found, until somebody says what they were.
CREATE TABLE flux.mg_anomaly (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id uuid NOT NULL,
    metric text NOT NULL CHECK (metric <> ''),
    kind text NOT NULL CHECK (kind IN ('outlier', 'stale', 'impossible', 'future')),
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    span tstzrange NOT NULL CHECK (NOT isempty(span) AND lower(span) IS NOT NULL AND upper(span) IS NOT NULL),
    value double precision,
    expected_low double precision,
    expected_high double precision,
    evidence jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(evidence) = 'object'),
    detected_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolved_by text,
    resolved_as text CHECK (resolved_as IN ('false_positive', 'maintenance', 'fixed', 'accepted')),
    resolution text CHECK (resolution <> ''),
    CHECK ((resolved_at IS NULL) = (resolved_by IS NULL)
           AND (resolved_at IS NULL) = (resolved_as IS NULL) AND (resolved_at IS NULL) = (resolution IS NULL))
);

COMMENT ON TABLE flux.mg_anomaly IS 'Values that are unlike those before them';
COMMENT ON COLUMN flux.mg_anomaly.kind IS
    'impossible and future stand for rows of mg_quarantine, stale for rows of the readings; they copy none';
COMMENT ON COLUMN flux.mg_anomaly.value IS 'the value that is furthest from what was expected, in the metric''s unit';

-- One that goes on grows; it is not told again.
CREATE UNIQUE INDEX mg_anomaly_once ON flux.mg_anomaly (device_id, metric, kind) WHERE resolved_at IS NULL;
CREATE INDEX mg_anomaly_device ON flux.mg_anomaly (device_id, metric, kind, upper(span));

-- An anomaly is resolved once, for ever.
CREATE FUNCTION flux.guard_anomaly() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF OLD.resolved_at IS NOT NULL THEN
        RAISE EXCEPTION 'anomaly % was resolved at %', OLD.id, OLD.resolved_at;
    END IF;
    RETURN NEW;
END
$function$;

CREATE TRIGGER guard BEFORE UPDATE ON flux.mg_anomaly FOR EACH ROW EXECUTE FUNCTION flux.guard_anomaly();

GRANT SELECT ON flux.mg_archive_day, flux.mg_anomaly TO flux_reader, flux_operator, flux_jobs;
GRANT INSERT, UPDATE ON flux.mg_archive_day, flux.mg_anomaly TO flux_operator, flux_jobs;
