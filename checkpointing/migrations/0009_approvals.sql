-- Requests for approval: who is asked about which action, by when, and what became of it. A row is decided once, by
-- whoever locks it first.
CREATE TABLE holdfast.approvals (
    request_id text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY, -- order of arrival
    thread_id text NOT NULL,
    task_id text NOT NULL,
    call_id text NOT NULL, -- of the tool call, or what a node calls it; unique in the task
    checkpoint_ns text NOT NULL,
    node text,
    step integer,
    correlation_id text,
    run_id text,
    graph_id text,
    name text NOT NULL, -- of the action
    arguments json NOT NULL, -- as they were written: numbers are not written anew, and names stay in their order
    digest text NOT NULL, -- of name and arguments
    description text NOT NULL,
    context json NOT NULL, -- what the agent knew
    schema json, -- of the arguments
    asked text[] NOT NULL, -- who may decide at first; empty: anybody
    quorum integer NOT NULL CHECK (quorum > 0),
    allowed text[] NOT NULL,
    expires_in interval,
    on_expiry text NOT NULL CHECK (on_expiry IN ('reject', 'escalate', 'approve')),
    escalate_to text[] NOT NULL,
    remind_every interval,
    bulk boolean NOT NULL,
    waived text, -- why nobody need be asked
    state text NOT NULL CHECK (
        state IN ('waived', 'waiting', 'approved', 'edited', 'rejected', 'responded', 'expired', 'withdrawn')
    ),
    requested_at timestamptz NOT NULL,
    expires_at timestamptz,
    remind_at timestamptz,
    deciders text[] NOT NULL, -- who may decide now
    level integer NOT NULL DEFAULT 0, -- how often it was escalated
    votes text[] NOT NULL DEFAULT '{}', -- who has approved, since the last escalation
    reminded integer NOT NULL DEFAULT 0,
    decided_by text,
    decided_at timestamptz,
    decision text CHECK (decision IN ('approve', 'edit', 'reject', 'respond')),
    message text NOT NULL DEFAULT '',
    edited json, -- the arguments that were approved instead
    taken_by text, -- the task that carries it out: an approval is for one
    tokens text[] NOT NULL DEFAULT '{}', -- of what was decided, by which it is known if it is sent again
    refused text[] NOT NULL DEFAULT '{}', -- why and whose decision was refused: each is told once
    CHECK ((state = 'waiting') = (decided_at IS NULL))
);

CREATE INDEX approvals_of_task ON holdfast.approvals (task_id, thread_id);

CREATE INDEX approvals_of_thread ON holdfast.approvals (thread_id);

CREATE INDEX approvals_by_correlation ON holdfast.approvals (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE INDEX approvals_by_state ON holdfast.approvals (state, expires_at);

CREATE INDEX approvals_due ON holdfast.approvals (least(expires_at, remind_at)) WHERE state = 'waiting';

CREATE INDEX approvals_decided ON holdfast.approvals (decided_at) WHERE state <> 'waiting';

-- An event of a request, in its thread's chain; whoever shows requests learns that this one has changed.
CREATE FUNCTION holdfast.tell_approval(kept holdfast.approvals, actor text, kind text, details jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM holdfast.append_event(
        kept.thread_id, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step, actor,
        'approval.' || kind, NULL, NULL, NULL, NULL, NULL, 'user_hidden',
        jsonb_build_object('request', kept.request_id, 'name', kept.name) || details
    );
    PERFORM pg_notify('holdfast_approvals', kept.request_id);
END
$$;

CREATE FUNCTION holdfast.approval_time(at timestamptz) RETURNS text
LANGUAGE sql AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

-- The time of a request, which the caller has locked, is over: what its terms say of that. Returns what was done.
CREATE FUNCTION holdfast.expire_approval(kept holdfast.approvals, moment timestamptz, worker text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    done text := CASE kept.on_expiry WHEN 'approve' THEN 'approved' ELSE 'expired' END;
    deadline timestamptz := moment + kept.expires_in;
BEGIN
    IF kept.on_expiry = 'escalate' AND kept.level = 0 THEN
        UPDATE holdfast.approvals AS r
        SET deciders = r.escalate_to, level = 1, votes = '{}', expires_at = deadline,
            remind_at = moment + r.remind_every
        WHERE r.request_id = kept.request_id;
        PERFORM holdfast.tell_approval(kept, worker, 'escalated', jsonb_build_object(
            'to', to_jsonb(kept.escalate_to), 'expires_at', holdfast.approval_time(deadline)
        ));
        RETURN 'escalated';
    END IF;
    UPDATE holdfast.approvals AS r
    SET state = done, decided_by = 'holdfast:expiry', decided_at = moment,
        decision = CASE done WHEN 'approved' THEN 'approve' ELSE 'reject' END
    WHERE r.request_id = kept.request_id;
    PERFORM holdfast.tell_approval(kept, worker, 'expired', jsonb_build_object(
        'then', CASE done WHEN 'approved' THEN 'approve' ELSE 'reject' END,
        'expired_at', holdfast.approval_time(kept.expires_at)
    ));
    RETURN done;
END
$$;

-- Decide a request, if nobody has and it is not too late; `verb` may be withdraw, too, which asks for no decider.
-- Returns what was done, if anything, and why it was refused, if it was: a refusal is told, and changes nothing but
-- that a request is expired whose time is over. Neither: this very decision was taken before.
CREATE FUNCTION holdfast.decide_approval(
    at timestamptz, id text, token text, worker text, verb text, person text, seen text, given json, said text,
    told jsonb, OUT done text, OUT refusal text
)
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.approvals;
    moment timestamptz;
    agreed text[];
BEGIN
    SELECT r.* INTO kept FROM holdfast.approvals AS r WHERE r.request_id = id FOR UPDATE;
    IF NOT FOUND THEN
        refusal := 'unknown';
        RETURN;
    END IF;
    IF token = ANY(kept.tokens) THEN
        RETURN;
    END IF;
    moment := coalesce(at, clock_timestamp());
    IF kept.state = 'waiting' AND kept.expires_at <= moment THEN
        done := holdfast.expire_approval(kept, moment, worker);
        refusal := 'expired';
    ELSIF kept.state <> 'waiting' THEN
        refusal := CASE kept.decided_by WHEN 'holdfast:expiry' THEN 'expired' ELSE 'decided' END;
    ELSIF verb <> 'withdraw' THEN
        refusal := CASE
            WHEN kept.deciders <> '{}' AND person <> ALL(kept.deciders) THEN 'no decider'
            WHEN verb <> ALL(kept.allowed) THEN 'not allowed'
            WHEN seen <> kept.digest THEN 'changed'
            WHEN verb = 'approve' AND person = ANY(kept.votes) THEN 'voted'
        END;
    END IF;
    IF refusal IS NOT NULL THEN
        -- Once for each person and reason, and no more than so many: this may be tried by anybody, again and again.
        IF refusal || ' ' || person <> ALL(kept.refused) AND cardinality(kept.refused) < 100 THEN
            UPDATE holdfast.approvals AS r SET refused = r.refused || (refusal || ' ' || person)
            WHERE r.request_id = id;
            PERFORM holdfast.append_event(
                kept.thread_id, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step, person,
                'approval.refused', NULL, NULL, NULL, NULL, NULL, 'user_hidden',
                jsonb_build_object('request', id, 'name', kept.name, 'tried', verb, 'why', refusal)
            );
        END IF;
        RETURN;
    END IF;
    agreed := CASE verb WHEN 'approve' THEN kept.votes || person ELSE kept.votes END;
    IF verb = 'approve' AND cardinality(agreed) < kept.quorum THEN
        UPDATE holdfast.approvals AS r SET votes = agreed, tokens = r.tokens || token WHERE r.request_id = id;
        done := 'voted';
    ELSE
        UPDATE holdfast.approvals AS r
        SET state = CASE verb
                WHEN 'approve' THEN 'approved' WHEN 'edit' THEN 'edited' WHEN 'reject' THEN 'rejected'
                WHEN 'respond' THEN 'responded' ELSE 'withdrawn'
            END,
            votes = agreed, decided_by = person, decided_at = moment, decision = nullif(verb, 'withdraw'),
            message = said, edited = given, tokens = r.tokens || token
        WHERE r.request_id = id;
        done := CASE verb WHEN 'withdraw' THEN 'withdrawn' ELSE 'decided' END;
    END IF;
    PERFORM holdfast.tell_approval(
        kept, person, done,
        CASE WHEN verb = 'withdraw' THEN '{}'::jsonb ELSE jsonb_build_object('decision', verb) END
        || CASE WHEN kept.quorum = 1 THEN '{}'::jsonb
            ELSE jsonb_build_object('approvals', cardinality(agreed), 'quorum', kept.quorum) END
        || told
    );
END
$$;

-- What is due at a request: the end of its time, or a reminder. Returns what was done, if anything.
CREATE FUNCTION holdfast.tend_approval(at timestamptz, id text, worker text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.approvals;
    moment timestamptz;
BEGIN
    SELECT r.* INTO kept FROM holdfast.approvals AS r WHERE r.request_id = id AND r.state = 'waiting' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    moment := coalesce(at, clock_timestamp());
    IF kept.expires_at <= moment THEN
        RETURN holdfast.expire_approval(kept, moment, worker);
    ELSIF kept.remind_at <= moment THEN
        UPDATE holdfast.approvals AS r SET reminded = r.reminded + 1, remind_at = moment + r.remind_every
        WHERE r.request_id = id;
        PERFORM holdfast.tell_approval(kept, worker, 'reminded', jsonb_build_object('times', kept.reminded + 1));
        RETURN 'reminded';
    END IF;
    RETURN NULL;
END
$$;

-- Nobody need decide on the waiting requests of these threads any more, or of these runs of them: the thread is not where
-- it was.
CREATE FUNCTION holdfast.withdraw_approvals(threads text[], why text, runs text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one holdfast.approvals;
BEGIN
    FOR one IN
        SELECT r.* FROM holdfast.approvals AS r
        WHERE r.thread_id = ANY(threads) AND r.state = 'waiting' AND (runs IS NULL OR r.run_id = ANY(runs))
        ORDER BY r.thread_id, r.request_id
        FOR UPDATE
    LOOP
        UPDATE holdfast.approvals AS r
        SET state = 'withdrawn', decided_by = 'holdfast:thread', decided_at = clock_timestamp(), message = why
        WHERE r.request_id = one.request_id;
        PERFORM holdfast.tell_approval(one, 'holdfast:thread', 'withdrawn', jsonb_build_object('message', why));
    END LOOP;
END
$$;
