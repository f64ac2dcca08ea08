-- How a thread is run, as whoever started it said. Not in the checkpoints' metadata: a server's callers write that.
CREATE TABLE holdfast.threads (
    thread_id text PRIMARY KEY,
    settings jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
