-- What a trust policy found when it was asked about a call: it stands in the request's context. Null if it was not.
CREATE FUNCTION holdfast.trust_of(context json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE json_typeof(context -> 'trust') WHEN 'object' THEN (context -> 'trust')::jsonb END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL; -- json that has texts which no jsonb has
END
$$;

-- Which kind of action a request is about, by default the tool's name; and whether a person has looked at a run that
-- was automatic.
ALTER TABLE holdfast.approvals
ADD COLUMN pattern text GENERATED ALWAYS AS (coalesce(holdfast.trust_of(context) ->> 'pattern', name)) STORED,
ADD COLUMN trust jsonb GENERATED ALWAYS AS (holdfast.trust_of(context)) STORED,
ADD COLUMN reviewed_at timestamptz;

CREATE INDEX approvals_judged ON holdfast.approvals (name, pattern, decided_at DESC)
WHERE state IN ('approved', 'edited', 'rejected', 'responded');

CREATE INDEX approvals_failed ON holdfast.approvals (name, pattern, requested_at DESC)
WHERE trust ->> 'checks' = 'failed';

CREATE INDEX approvals_to_review ON holdfast.approvals (name, pattern, requested_at)
WHERE state = 'waived' AND trust ->> 'review' = 'true' AND reviewed_at IS NULL;

-- What was said of calls beside the decisions on them, which lie with the requests; and those decisions that have
-- outlived their threads. Rows are added, and never changed.
CREATE TABLE holdfast.trust_facts (
    fact_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    tool text NOT NULL,
    pattern text NOT NULL,
    kind text NOT NULL CHECK (
        kind IN ('approved', 'edited', 'responded', 'rejected', 'failed', 'passed', 'fine', 'incident')
    ),
    request_id text COLLATE "C", -- of the call; null: an incident of which no call is known
    who text NOT NULL,
    why text NOT NULL,
    UNIQUE (request_id, kind)
);

CREATE INDEX trust_facts_of ON holdfast.trust_facts (tool, pattern, at DESC);

-- A person's word on a ring.
CREATE TABLE holdfast.trust_pins (
    tool text NOT NULL,
    pattern text NOT NULL,
    ring integer NOT NULL CHECK (ring BETWEEN 0 AND 2),
    exact boolean NOT NULL, -- else at the most
    who text NOT NULL,
    why text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tool, pattern)
);

-- The ring that was found last, so that a change of it is told once.
CREATE TABLE holdfast.trust_rings (
    tool text NOT NULL,
    pattern text NOT NULL,
    ring integer NOT NULL DEFAULT 0 CHECK (ring BETWEEN 0 AND 2),
    rule jsonb, -- by which it was found; null: nobody has asked yet
    since timestamptz,
    PRIMARY KEY (tool, pattern)
);

-- Whether a person has decided: time does not, and nobody knows who "unknown" is, so that its word counts against only.
CREATE FUNCTION holdfast.trust_judged(state text, decided_by text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT state IN ('approved', 'edited', 'rejected', 'responded') AND decided_by NOT LIKE 'holdfast:%'
        AND (state <> 'approved' OR decided_by <> 'unknown')
$$;

-- 0: good. 1: not good as it stood. 2: a setback.
CREATE FUNCTION holdfast.trust_severity(kind text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN kind IN ('approved', 'fine') THEN 0 WHEN kind IN ('rejected', 'incident') THEN 2 ELSE 1 END
$$;

-- A thread is removed, and its arguments with it; how the calls turned out stays: who prunes what went wrong would
-- earn autonomy by it.
CREATE FUNCTION holdfast.keep_evidence() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    judged CONSTANT boolean := holdfast.trust_judged(OLD.state, OLD.decided_by);
    failed CONSTANT boolean := coalesce(OLD.trust ->> 'checks' = 'failed', false);
BEGIN
    IF judged OR failed THEN
        INSERT INTO holdfast.trust_facts (at, tool, pattern, kind, request_id, who, why)
        VALUES (
            CASE WHEN judged THEN OLD.decided_at ELSE OLD.requested_at END, OLD.name, OLD.pattern,
            CASE WHEN judged AND NOT (failed AND OLD.state = 'approved') THEN OLD.state ELSE 'failed' END,
            OLD.request_id, CASE WHEN judged THEN OLD.decided_by ELSE 'checks' END, ''
        )
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER evidence_stays AFTER DELETE ON holdfast.approvals
FOR EACH ROW EXECUTE FUNCTION holdfast.keep_evidence();
