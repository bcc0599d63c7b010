-- Schema flux: the device registry, the readings (hypertables) and the five-minute rollup.
-- Runs as flux_owner, which owns everything here. The other roles come from the role `postgresql`.

CREATE SCHEMA flux;

-- The source of truth for devices. A device is never deleted: active_to says until when it was in service.
CREATE TABLE flux.mg_device_registry (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    type text NOT NULL CHECK (type IN ('bess', 'meter')),
    site text NOT NULL CHECK (site <> ''),
    profile text NOT NULL CHECK (profile <> ''),
    cadence interval NOT NULL CHECK (cadence > interval '0'),
    active_from timestamptz NOT NULL DEFAULT now(),
    active_to timestamptz CHECK (active_to > active_from),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object')
);

COMMENT ON COLUMN flux.mg_device_registry.id IS 'UUIDv5 of system/site/name: the same on every installation';
COMMENT ON COLUMN flux.mg_device_registry.cadence IS 'time between two readings';

-- No foreign key to the registry: a reading of a device that is not registered yet is kept, not refused,
-- since a refused one would block its station's buffer behind it. Checks report such devices.
-- Power is + when discharging into the grid and - when charging.
CREATE TABLE flux.mg_bess_readings (
    time timestamptz NOT NULL,
    device_id uuid NOT NULL,
    boot_id uuid,
    seq bigint,
    heartbeat bigint,
    power_kw double precision,
    setpoint_kw double precision,
    soe_percent double precision,
    voltage_v double precision,
    frequency_hz double precision,
    temperature_c double precision,
    status integer,
    alarms bigint,
    time_quality text,
    PRIMARY KEY (device_id, time)
);

CREATE TABLE flux.mg_meter_readings (
    time timestamptz NOT NULL,
    device_id uuid NOT NULL,
    boot_id uuid,
    seq bigint,
    heartbeat bigint,
    power_kw double precision,
    voltage_v double precision,
    frequency_hz double precision,
    energy_import_kwh double precision,
    energy_export_kwh double precision,
    time_quality text,
    PRIMARY KEY (device_id, time)
);

-- One day per chunk: retention drops whole chunks, and a day of 200 devices fits into memory.
SELECT public.create_hypertable('flux.mg_bess_readings', public.by_range('time', interval '1 day'));
SELECT public.create_hypertable('flux.mg_meter_readings', public.by_range('time', interval '1 day'));

-- Energy columns are the meter's counters at the end of the bucket: the energy of a bucket is the difference
-- to the bucket before it.
CREATE TABLE flux.mg_meter_readings_5m_intermediate (
    bucket timestamptz NOT NULL,
    device_id uuid NOT NULL,
    samples integer NOT NULL,
    power_kw_avg double precision,
    power_kw_min double precision,
    power_kw_max double precision,
    energy_import_kwh double precision,
    energy_export_kwh double precision,
    PRIMARY KEY (device_id, bucket)
);

CREATE INDEX mg_meter_readings_5m_intermediate_bucket ON flux.mg_meter_readings_5m_intermediate (bucket);

GRANT USAGE ON SCHEMA flux TO flux_writer, flux_reader, flux_operator;
GRANT USAGE ON SCHEMA ops TO flux_reader, flux_operator;

-- SELECT too: INSERT … ON CONFLICT reads the key.
GRANT SELECT, INSERT ON flux.mg_bess_readings, flux.mg_meter_readings TO flux_writer;
GRANT SELECT ON flux.mg_device_registry TO flux_writer;

GRANT SELECT ON ALL TABLES IN SCHEMA flux TO flux_reader, flux_operator;
GRANT SELECT ON ops.migrations TO flux_reader, flux_operator;
ALTER DEFAULT PRIVILEGES IN SCHEMA flux GRANT SELECT ON TABLES TO flux_reader, flux_operator;
ALTER DEFAULT PRIVILEGES IN SCHEMA ops GRANT SELECT ON TABLES TO flux_reader, flux_operator;

GRANT INSERT, UPDATE ON flux.mg_device_registry TO flux_operator;
