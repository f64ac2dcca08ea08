-- Who wants to be told of requests for approval: a webhook, a chat. Without anybody nothing is written.
CREATE TABLE holdfast.receivers (
    name text PRIMARY KEY, -- as whoever tells it calls it; its address and secrets are not here
    kinds text[] NOT NULL, -- of what it is told
    seen_at timestamptz NOT NULL -- when somebody last looked for what it is to be told
);

-- What is still to be told, one row for each receiver: written with the change, deleted when it was told.
CREATE TABLE holdfast.notices (
    notice_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receiver text NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('requested', 'reminded', 'escalated', 'decided', 'expired', 'withdrawn')),
    number integer NOT NULL, -- the how-manyth reminder or escalation
    at timestamptz NOT NULL, -- when it happened
    tries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL, -- when it may be tried; while somebody tries, when others may
    UNIQUE (request_id, receiver, kind, number)
);

CREATE INDEX notices_due ON holdfast.notices (receiver, due_at);

CREATE FUNCTION holdfast.note_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    what text := 'requested';
    times integer := 0;
    moment CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.state <> 'waiting' THEN
            RETURN NULL;
        ELSIF NEW.state <> 'waiting' THEN
            what := CASE
                WHEN NEW.decided_by = 'holdfast:expiry' THEN 'expired'
                WHEN NEW.state = 'withdrawn' THEN 'withdrawn'
                ELSE 'decided'
            END;
        ELSIF NEW.level <> OLD.level THEN
            what := 'escalated';
            times := NEW.level;
        ELSIF NEW.reminded <> OLD.reminded THEN
            what := 'reminded';
            times := NEW.reminded;
        ELSE
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO holdfast.notices (receiver, request_id, kind, number, at, due_at)
    SELECT r.name, NEW.request_id, what, times, moment, moment FROM holdfast.receivers AS r
    -- One that nobody tells any more is not written to for ever.
    WHERE what = ANY(r.kinds) AND r.seen_at > moment - interval '7 days'
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER note_request AFTER INSERT ON holdfast.approvals
FOR EACH ROW WHEN (new.state = 'waiting') EXECUTE FUNCTION holdfast.note_approval();

CREATE TRIGGER note_change AFTER UPDATE ON holdfast.approvals
FOR EACH ROW WHEN (old.state = 'waiting') EXECUTE FUNCTION holdfast.note_approval();
