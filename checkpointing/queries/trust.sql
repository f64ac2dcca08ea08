-- name: cases
-- Each call of which something was said, once: the worst of it, at the time of the newest. Newest first.
WITH found AS (
    (
        SELECT
            a.request_id, 0::bigint AS fact_id,
            CASE WHEN a.state = 'approved' AND a.trust ->> 'checks' = 'failed' THEN 'failed' ELSE a.state END AS kind,
            a.decided_at AS at, a.decided_by AS who, a.message AS why
        FROM holdfast.approvals AS a
        WHERE a.name = %(tool)s AND a.pattern = %(pattern)s
            AND a.state IN ('approved', 'edited', 'rejected', 'responded')
            AND holdfast.trust_judged(a.state, a.decided_by)
        ORDER BY a.decided_at DESC
        LIMIT %(most)s
    )
    UNION ALL
    (
        SELECT a.request_id, 0, 'failed', a.requested_at, 'checks', coalesce(a.trust ->> 'why', '')
        FROM holdfast.approvals AS a
        WHERE a.name = %(tool)s AND a.pattern = %(pattern)s AND a.trust ->> 'checks' = 'failed'
        ORDER BY a.requested_at DESC
        LIMIT %(most)s
    )
    UNION ALL
    (
        -- Of one call there are four of these at the most.
        SELECT f.request_id, f.fact_id, f.kind, f.at, f.who, f.why
        FROM holdfast.trust_facts AS f
        WHERE f.tool = %(tool)s AND f.pattern = %(pattern)s AND f.kind <> 'passed'
        ORDER BY f.at DESC
        LIMIT 4 * %(most)s
    )
),

worst AS (
    SELECT DISTINCT ON (f.request_id, CASE WHEN f.request_id IS NULL THEN f.fact_id END)
        f.request_id, f.fact_id, f.kind, f.who, f.why,
        max(f.at) OVER (PARTITION BY f.request_id, CASE WHEN f.request_id IS NULL THEN f.fact_id END) AS at
    FROM found AS f
    ORDER BY
        f.request_id, CASE WHEN f.request_id IS NULL THEN f.fact_id END, holdfast.trust_severity(f.kind) DESC,
        f.at DESC
)

SELECT w.kind, w.at, w.who, w.request_id, w.why FROM worst AS w
ORDER BY w.at DESC, w.request_id DESC, w.fact_id DESC
LIMIT %(most)s;

-- name: pin
-- With whether there was a setback since.
SELECT
    p.ring, p.exact, p.who, p.why, p.at,
    EXISTS (
        SELECT 1 FROM holdfast.approvals AS a
        WHERE a.name = p.tool AND a.pattern = p.pattern AND a.state IN ('approved', 'edited', 'rejected', 'responded')
            AND a.state = 'rejected' AND a.decided_at >= p.at AND holdfast.trust_judged(a.state, a.decided_by)
    ) OR EXISTS (
        SELECT 1 FROM holdfast.trust_facts AS f
        WHERE f.tool = p.tool AND f.pattern = p.pattern AND f.at >= p.at AND holdfast.trust_severity(f.kind) = 2
    ) AS broken
FROM holdfast.trust_pins AS p
WHERE p.tool = %(tool)s AND p.pattern = %(pattern)s;

-- name: unreviewed
-- How many, and no more than matter.
SELECT count(*) FROM (
    SELECT 1 FROM holdfast.approvals AS a
    WHERE a.name = %(tool)s AND a.pattern = %(pattern)s
        AND a.state = 'waived' AND a.trust ->> 'review' = 'true' AND a.reviewed_at IS NULL
    LIMIT 10000
) AS waiting;

-- name: tally
-- Automatic runs, and what checks said.
SELECT
    (
        SELECT count(*) FROM holdfast.approvals AS a
        WHERE a.name = %(tool)s AND a.pattern = %(pattern)s AND a.state = 'waived'
    ),
    (
        SELECT count(*) FROM holdfast.approvals AS a
        WHERE a.name = %(tool)s AND a.pattern = %(pattern)s AND a.trust ->> 'checks' = 'passed'
    ) + count(*) FILTER (WHERE f.kind = 'passed'),
    (
        SELECT count(*) FROM holdfast.approvals AS a
        WHERE a.name = %(tool)s AND a.pattern = %(pattern)s AND a.trust ->> 'checks' = 'failed'
    ) + count(*) FILTER (WHERE f.kind = 'failed')
FROM holdfast.trust_facts AS f
WHERE f.tool = %(tool)s AND f.pattern = %(pattern)s AND f.kind IN ('passed', 'failed');

-- name: ring
SELECT ring, rule, since FROM holdfast.trust_rings WHERE tool = %(tool)s AND pattern = %(pattern)s;

-- name: begin_ring
INSERT INTO holdfast.trust_rings (tool, pattern) VALUES (%(tool)s, %(pattern)s) ON CONFLICT DO NOTHING;

-- name: lock_ring
SELECT ring, rule FROM holdfast.trust_rings WHERE tool = %(tool)s AND pattern = %(pattern)s FOR UPDATE;

-- name: set_ring
UPDATE holdfast.trust_rings
SET
    since = CASE WHEN ring = %(ring)s::integer AND since IS NOT NULL THEN since
        ELSE coalesce(%(at)s::timestamptz, clock_timestamp()) END,
    ring = %(ring)s::integer, rule = %(rule)s::jsonb
WHERE tool = %(tool)s AND pattern = %(pattern)s;

-- name: set_pin
INSERT INTO holdfast.trust_pins (tool, pattern, ring, exact, who, why, at)
VALUES (
    %(tool)s, %(pattern)s, %(ring)s::integer, %(exact)s::boolean, %(who)s, %(why)s,
    coalesce(%(at)s::timestamptz, clock_timestamp())
)
ON CONFLICT (tool, pattern) DO UPDATE SET
    ring = excluded.ring, exact = excluded.exact, who = excluded.who, why = excluded.why, at = excluded.at;

-- name: remove_pin
DELETE FROM holdfast.trust_pins WHERE tool = %(tool)s AND pattern = %(pattern)s RETURNING ring, exact, who;

-- name: call
-- The request of a call that something is to be said of.
SELECT a.name, a.pattern, a.state, a.thread_id, a.correlation_id, a.run_id, a.checkpoint_ns, a.node, a.step
FROM holdfast.approvals AS a WHERE a.request_id = %(request)s;

-- name: add_fact
INSERT INTO holdfast.trust_facts (at, tool, pattern, kind, request_id, who, why)
VALUES (
    coalesce(%(at)s::timestamptz, clock_timestamp()), %(tool)s, %(pattern)s, %(kind)s, %(request)s, %(who)s, %(why)s
)
ON CONFLICT (request_id, kind) DO NOTHING
RETURNING fact_id;

-- name: was_reviewed
SELECT kind, who FROM holdfast.trust_facts
WHERE request_id = %(request)s AND kind IN ('fine', 'incident') ORDER BY at DESC LIMIT 1;

-- name: mark_reviewed
UPDATE holdfast.approvals SET reviewed_at = coalesce(%(at)s::timestamptz, clock_timestamp())
WHERE request_id = %(request)s AND reviewed_at IS NULL;

-- name: to_review
-- Automatic runs of which nobody has said anything yet, oldest first.
SELECT a.request_id, a.thread_id, a.name, a.pattern, (a.trust ->> 'ring')::integer, a.waived, a.requested_at
FROM holdfast.approvals AS a
WHERE a.state = 'waived' AND a.trust ->> 'review' = 'true' AND a.reviewed_at IS NULL
    AND (%(tool)s::text IS NULL OR a.name = %(tool)s) AND (%(pattern)s::text IS NULL OR a.pattern = %(pattern)s)
ORDER BY a.requested_at, a.request_id
LIMIT %(most)s;

-- name: known
-- Every kind of action of which something is known.
SELECT k.tool, k.pattern, coalesce(r.ring, 0), r.rule, r.since
FROM (
    SELECT DISTINCT a.name AS tool, a.pattern FROM holdfast.approvals AS a
    UNION
    SELECT DISTINCT f.tool, f.pattern FROM holdfast.trust_facts AS f
    UNION
    SELECT p.tool, p.pattern FROM holdfast.trust_pins AS p
    UNION
    SELECT g.tool, g.pattern FROM holdfast.trust_rings AS g
) AS k
LEFT JOIN holdfast.trust_rings AS r ON r.tool = k.tool AND r.pattern = k.pattern
WHERE %(tool)s::text IS NULL OR k.tool = %(tool)s
ORDER BY k.tool COLLATE "C", k.pattern COLLATE "C";

-- name: tell
SELECT holdfast.append_event(
    %(thread)s, %(correlation)s, %(run)s, %(ns)s, %(node)s, %(step)s::int, %(actor)s, %(kind)s, NULL, NULL, NULL,
    NULL, NULL, 'user_hidden', %(details)s::jsonb
);
