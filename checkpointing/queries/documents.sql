-- Documents are kept by content: a dossier is a list of names that point at digests, so a thread
-- that goes on days later still reads what it read before, whatever happened to the folder.

-- name: save_document
-- One document's text; saving it again changes nothing.
INSERT INTO holdfast.documents (digest, body)
VALUES (%(digest)s, %(body)s)
ON CONFLICT (digest) DO NOTHING;

-- name: save_passage
-- One passage of a document, at its character offset.
INSERT INTO holdfast.passages (digest, position, body)
VALUES (%(digest)s, %(position)s, %(body)s)
ON CONFLICT (digest, position) DO NOTHING;

-- name: save_entry
-- One name in a dossier.
INSERT INTO holdfast.dossiers (dossier_id, name, digest)
VALUES (%(dossier_id)s, %(name)s, %(digest)s)
ON CONFLICT (dossier_id, name) DO NOTHING;

-- name: document_names
-- The names in a dossier.
SELECT name FROM holdfast.dossiers WHERE dossier_id = %(dossier_id)s ORDER BY name COLLATE "C";

-- name: read_document
-- One document of a dossier, whole.
SELECT entry.name, document.body
FROM holdfast.dossiers AS entry
JOIN holdfast.documents AS document USING (digest)
WHERE entry.dossier_id = %(dossier_id)s AND entry.name = %(name)s;

-- name: search_passages
-- The best passages for a question. plainto_tsquery asks for all words; a question in prose is
-- better served by any of them, ranked by how many and how close together. Only an '&' that joins two
-- quoted words is an operator; one inside a word (a web address) has no space around it.
WITH question AS (
    SELECT replace(plainto_tsquery('english', %(query)s)::text, ''' & ''', ''' | ''')::tsquery AS words
)
SELECT
    entry.name,
    passage.position,
    passage.body,
    ts_rank_cd(passage.words, question.words, 1) AS rank
FROM holdfast.dossiers AS entry
JOIN holdfast.passages AS passage USING (digest)
CROSS JOIN question
WHERE entry.dossier_id = %(dossier_id)s AND passage.words @@ question.words
ORDER BY rank DESC, entry.name, passage.position
LIMIT %(limit)s;
