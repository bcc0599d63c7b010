-- Copies of the control nodes' audit chains. The text of a record is the evidence: it is stored byte for byte,
-- because jsonb would change the spelling that the hash and the signature cover.
CREATE TABLE ops.audit (
    chain        text        NOT NULL,
    seq          bigint      NOT NULL CHECK (seq > 0),
    at           timestamptz NOT NULL,
    hash         text        NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    record       text        NOT NULL,
    control_node text        GENERATED ALWAYS AS (record::jsonb ->> 'node') STORED,
    run_id       text        GENERATED ALWAYS AS (record::jsonb ->> 'run_id') STORED,
    event        text        GENERATED ALWAYS AS (record::jsonb ->> 'event') STORED,
    data         jsonb       GENERATED ALWAYS AS (record::jsonb -> 'data') STORED,
    stored_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain, seq)
);

CREATE INDEX audit_run_id ON ops.audit (run_id);
CREATE INDEX audit_at ON ops.audit (at);

COMMENT ON TABLE ops.audit IS 'Append-only copies of the signed audit chains of the control nodes';
COMMENT ON COLUMN ops.audit.record IS 'The record as it stands in the chain, byte for byte';

-- Grants keep everybody but the owner from changing rows; this also stops the owner and a superuser's slip.
CREATE FUNCTION ops.refuse_audit_change() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION 'ops.audit is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_is_append_only
    BEFORE UPDATE OR DELETE ON ops.audit
    FOR EACH ROW EXECUTE FUNCTION ops.refuse_audit_change();

CREATE TRIGGER audit_is_not_truncated
    BEFORE TRUNCATE ON ops.audit
    FOR EACH STATEMENT EXECUTE FUNCTION ops.refuse_audit_change();

GRANT SELECT, INSERT ON ops.audit TO flux_operator;
GRANT SELECT ON ops.audit TO flux_reader;
