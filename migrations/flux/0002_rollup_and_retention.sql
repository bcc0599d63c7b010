-- The five-minute rollup and the retention of raw readings, as functions that systemd timers call. They use
-- only what TimescaleDB's Apache edition has, so both editions behave alike.

-- Up to where raw readings were dropped. A rollup older than that can not be computed again.
CREATE TABLE ops.retention (
    relation text PRIMARY KEY,
    dropped_before timestamptz NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now()
);

-- Computes the buckets that [window_start, window_end) touches, again and in whole, from the raw readings.
-- Late readings are therefore right as soon as their span is refreshed once more. Returns how many buckets
-- were new or changed. SECURITY DEFINER: flux_operator refreshes a span after a back-fill, but cannot write
-- the rollup by hand.
CREATE FUNCTION flux.refresh_meter_readings_5m(window_start timestamptz, window_end timestamptz)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $function$
DECLARE
    first_bucket timestamptz := public.time_bucket(interval '5 minutes', window_start);
    horizon timestamptz;
    changed bigint;
BEGIN
    IF window_start IS NULL OR window_end IS NULL OR window_start >= window_end THEN
        RAISE EXCEPTION 'the window [%, %) is empty', window_start, window_end;
    END IF;
    SELECT dropped_before INTO horizon FROM ops.retention WHERE relation = 'flux.mg_meter_readings';
    -- Readings that arrive for a dropped span are only a part of it: they must not replace its rollup.
    first_bucket := greatest(first_bucket, horizon);

    INSERT INTO flux.mg_meter_readings_5m_intermediate AS kept
        (bucket, device_id, samples, power_kw_avg, power_kw_min, power_kw_max,
         energy_import_kwh, energy_export_kwh)
    SELECT
        public.time_bucket(interval '5 minutes', raw.time) AS bucket,
        raw.device_id,
        count(*),
        avg(raw.power_kw),
        min(raw.power_kw),
        max(raw.power_kw),
        public.last(raw.energy_import_kwh, raw.time) FILTER (WHERE raw.energy_import_kwh IS NOT NULL),
        public.last(raw.energy_export_kwh, raw.time) FILTER (WHERE raw.energy_export_kwh IS NOT NULL)
    FROM flux.mg_meter_readings AS raw
    WHERE raw.time >= first_bucket
      AND raw.time < public.time_bucket(interval '5 minutes', window_end - interval '1 microsecond')
                     + interval '5 minutes'
    GROUP BY 1, 2
    ON CONFLICT (device_id, bucket) DO UPDATE SET
        samples = excluded.samples,
        power_kw_avg = excluded.power_kw_avg,
        power_kw_min = excluded.power_kw_min,
        power_kw_max = excluded.power_kw_max,
        energy_import_kwh = excluded.energy_import_kwh,
        energy_export_kwh = excluded.energy_export_kwh
    WHERE (kept.samples, kept.power_kw_avg, kept.power_kw_min, kept.power_kw_max,
           kept.energy_import_kwh, kept.energy_export_kwh)
          IS DISTINCT FROM
          (excluded.samples, excluded.power_kw_avg, excluded.power_kw_min, excluded.power_kw_max,
           excluded.energy_import_kwh, excluded.energy_export_kwh);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$function$;

COMMENT ON FUNCTION flux.refresh_meter_readings_5m IS
'Compute the five-minute rollup of a span again; returns how many buckets changed';

REVOKE EXECUTE ON FUNCTION flux.refresh_meter_readings_5m FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flux.refresh_meter_readings_5m TO flux_operator;

-- Drops the chunks of raw readings that lie wholly before now() - keep, after one last rollup of everything
-- that is about to go. Returns one row for each hypertable. Only the owner may call it.
CREATE FUNCTION flux.apply_retention(keep interval)
RETURNS TABLE (relation text, chunks_dropped bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $function$
DECLARE
    readings text;
    cutoff timestamptz := now() - keep;
    oldest timestamptz;
    dropped_until timestamptz;
BEGIN
    IF keep IS NULL OR keep < interval '1 day' THEN
        RAISE EXCEPTION 'readings are kept for at least one day, not %', keep;
    END IF;
    FOREACH readings IN ARRAY ARRAY['flux.mg_bess_readings', 'flux.mg_meter_readings'] LOOP
        SELECT min(range_start), max(range_end) INTO oldest, dropped_until
        FROM timescaledb_information.chunks
        WHERE hypertable_schema || '.' || hypertable_name = readings AND range_end <= cutoff;
        relation := readings;
        chunks_dropped := 0;
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

COMMENT ON FUNCTION flux.apply_retention IS
'Roll up and drop the raw readings that are older than an interval';

REVOKE EXECUTE ON FUNCTION flux.apply_retention FROM PUBLIC;
