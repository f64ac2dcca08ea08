-- One runner a thread: who runs it, and whether that one is alive.
CREATE TABLE holdfast.workers (
    worker text PRIMARY KEY, -- one process's handle on this database
    expires_at timestamptz NOT NULL -- it says again and again that it lives; after this moment its threads are free
);

CREATE TABLE holdfast.leases (
    thread_id text PRIMARY KEY,
    worker text NOT NULL, -- who runs it, or ran it last
    epoch bigint NOT NULL, -- grows with every run, over all threads: what an earlier one writes is refused
    generation bigint NOT NULL, -- of the thread's heads; changes when another worker takes the thread over
    held boolean NOT NULL -- false once its run has ended
);

CREATE SEQUENCE holdfast.epochs;

-- Who runs a thread and is alive, if anybody.
CREATE FUNCTION holdfast.runner(thread text) RETURNS text
LANGUAGE sql AS $$
    SELECT lease.worker FROM holdfast.leases AS lease
    INNER JOIN holdfast.workers AS w ON w.worker = lease.worker
    WHERE lease.thread_id = thread AND lease.held AND w.expires_at > clock_timestamp()
$$;

-- Make a worker the runner of a thread; the epoch of its lease, or null if another runs it. Which of a worker's own
-- runs may have it is for the worker to know.
CREATE FUNCTION holdfast.acquire(thread text, me text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
    fresh bigint := floor(random() * 274877906944);
    before text;
BEGIN
    -- Nobody waits for the disk: what the run commits is written after this, and with it.
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE holdfast.leases SET epoch = nextval('holdfast.epochs'), held = true
    WHERE thread_id = thread AND worker = me
    RETURNING epoch INTO taken;
    IF FOUND THEN
        RETURN taken;
    END IF;
    INSERT INTO holdfast.leases (thread_id, worker, epoch, generation, held)
    VALUES (thread, me, nextval('holdfast.epochs'), fresh, true)
    ON CONFLICT DO NOTHING
    RETURNING epoch INTO taken;
    IF FOUND THEN
        RETURN taken;
    END IF;
    IF holdfast.runner(thread) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- In the order in which a commit locks; then look again, as each statement sees what was committed before it.
    -- A worker that says too late that it lives learns that, by this lock, when the thread is taken.
    PERFORM 1 FROM holdfast.heads WHERE thread_id = thread ORDER BY checkpoint_ns FOR UPDATE;
    PERFORM 1 FROM holdfast.leases WHERE thread_id = thread FOR UPDATE;
    PERFORM 1 FROM holdfast.workers
    WHERE worker = (SELECT l.worker FROM holdfast.leases AS l WHERE l.thread_id = thread)
    FOR SHARE;
    IF holdfast.runner(thread) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    SELECT l.worker INTO before FROM holdfast.leases AS l WHERE l.thread_id = thread AND l.held;
    IF FOUND THEN
        PERFORM holdfast.append_event(
            thread, NULL, NULL, '', NULL, NULL, me, 'lease.taken', NULL, NULL, NULL, NULL, NULL, 'user_hidden',
            jsonb_build_object('from', before)
        );
    END IF;
    UPDATE holdfast.leases SET worker = me, epoch = nextval('holdfast.epochs'), generation = fresh, held = true
    WHERE thread_id = thread
    RETURNING epoch INTO taken;
    UPDATE holdfast.heads SET generation = fresh WHERE thread_id = thread;
    RETURN taken;
END
$$;

-- A worker lives for so long from now; whether it was alive until now.
CREATE FUNCTION holdfast.beat(me text, ttl interval) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz;
    alive boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT expires_at INTO until FROM holdfast.workers WHERE worker = me FOR UPDATE;
    alive := coalesce(until > clock_timestamp(), false);
    INSERT INTO holdfast.workers (worker, expires_at) VALUES (me, clock_timestamp() + ttl)
    ON CONFLICT (worker) DO UPDATE SET expires_at = excluded.expires_at;
    IF NOT alive THEN
        DELETE FROM holdfast.workers WHERE expires_at < clock_timestamp() - interval '1 day';
    END IF;
    RETURN alive;
END
$$;
