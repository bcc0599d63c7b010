-- The life of a device: registered, perhaps taken back by the run that registered it, retired for ever.

ALTER TABLE flux.mg_device_registry ADD COLUMN registered_at timestamptz;
UPDATE flux.mg_device_registry SET registered_at = active_from;
ALTER TABLE flux.mg_device_registry
    ALTER COLUMN registered_at SET DEFAULT now(),
    ALTER COLUMN registered_at SET NOT NULL;

COMMENT ON COLUMN flux.mg_device_registry.registered_at IS 'when the row was made; active_from may be another time';

-- Whoever writes, the owner included: an identifier means one device for ever.
CREATE FUNCTION flux.guard_device_registry() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- The undo of a run that failed. Anything older has a history.
        IF OLD.active_to IS NOT NULL OR OLD.registered_at < now() - interval '1 hour' THEN
            RAISE EXCEPTION 'device % has a history and is not deleted: retire it with active_to', OLD.name;
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'device %: its identifier cannot change', OLD.name;
    END IF;
    IF OLD.active_to <= now() AND NEW.active_to IS DISTINCT FROM OLD.active_to THEN
        RAISE EXCEPTION 'device % was retired at %: its name and identifier are never used again',
            OLD.name, OLD.active_to;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON flux.mg_device_registry
    FOR EACH ROW EXECUTE FUNCTION flux.guard_device_registry();

GRANT DELETE ON flux.mg_device_registry TO flux_operator;
