-- One runner a thread: who runs it, and whether that one is alive.
CREATE TABLE holdfast.workers (
    worker text PRIMARY KEY, -- one process's handle on this database
    expires_at timestamptz NOT NULL -- it says again and again that it lives; after this moment its threads are free
);

CREATE TABLE holdfast.leases (
    thread_id text PRIMARY KEY,
    worker text NOT NULL, -- who runs it, or ran it last
    epoch bigint NOT NULL, -- grows with every run: what an earlier one writes is refused
    generation bigint NOT NULL, -- of the thread's heads; changes when another worker takes the thread over
    held boolean NOT NULL -- false once its run has ended
);
