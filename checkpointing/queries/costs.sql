-- name: report
-- What the events of each group come to: one statement, so one moment. What is answered from the record is not paid
-- again, so that its tokens do not count; its cost would, as every cost does.
WITH counted AS (
    SELECT
        CASE %(by)s::text
            WHEN 'model' THEN
                coalesce(details #>> '{cost,model}', CASE WHEN kind LIKE 'model.%%' THEN details ->> 'name' END)
            -- With the nodes around it: a subgraph's own say little, and those of agents are all called alike.
            WHEN 'node' THEN CASE
                WHEN checkpoint_ns ~ '[|]' THEN
                    replace(regexp_replace(checkpoint_ns, ':[^|]*|[|][0-9]+(?=[|]|$)', '', 'g'), '|', '/')
                ELSE node
            END
            WHEN 'tool' THEN coalesce(
                details #>> '{cost,tool}',
                CASE WHEN kind LIKE 'tool.%%' OR kind LIKE 'effect.%%' THEN details ->> 'name' END
            )
            WHEN 'tenant' THEN details #>> '{cost,tenant}'
            WHEN 'thread' THEN thread_id
            WHEN 'run' THEN run_id
            WHEN 'correlation' THEN correlation_id
            WHEN 'day' THEN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
        END AS key,
        kind LIKE 'model.%%' AS by_model,
        kind LIKE '%%.replayed' AS replayed,
        kind ~ '^(model|tool|effect)[.](answered|completed|failed|charged)$' AS ended,
        details #> '{cost,unseen}' = 'true' AS unseen,
        details #> '{cost,estimated}' = 'true' AS estimated,
        kind, input_tokens, output_tokens, cost
    FROM holdfast.events
    WHERE at >= coalesce(%(since)s::timestamptz, '-infinity') AND at < coalesce(%(until)s::timestamptz, 'infinity')
        AND (%(thread)s::text IS NULL OR thread_id = %(thread)s)
        AND (%(correlation)s::text IS NULL OR correlation_id = %(correlation)s)
        AND (%(tenant)s::text IS NULL OR details #>> '{cost,tenant}' = %(tenant)s)
)
SELECT
    key,
    count(*) FILTER (WHERE by_model AND NOT replayed AND (ended OR cost IS NOT NULL)),
    count(*) FILTER (WHERE NOT by_model AND NOT replayed AND (ended OR cost IS NOT NULL)),
    count(*) FILTER (WHERE replayed),
    coalesce(sum(input_tokens) FILTER (WHERE NOT replayed), 0),
    coalesce(sum(output_tokens) FILTER (WHERE NOT replayed), 0),
    coalesce(sum(cost), 0),
    coalesce(sum(cost) FILTER (WHERE unseen), 0),
    coalesce(sum(cost) FILTER (WHERE estimated), 0),
    count(*) FILTER (WHERE cost IS NULL AND kind IN ('model.answered', 'model.completed', 'model.charged'))
FROM counted
WHERE ended OR replayed OR cost IS NOT NULL OR input_tokens IS NOT NULL OR output_tokens IS NOT NULL
GROUP BY key
ORDER BY CASE WHEN %(by)s = 'day' THEN key END, sum(cost) DESC NULLS LAST, key COLLATE "C" NULLS LAST;
