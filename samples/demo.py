"""`make demo`: an outreach agent is killed half-way, goes on where it was, waits for a person, and sends."""

from __future__ import annotations

import email
import email.policy
import json
import re
import secrets
import subprocess
import sys
from pathlib import Path

from holdfast.nodes import load_folder

HERE = Path(__file__).resolve().parent
DOSSIER = HERE / "tidewater-instruments"
OUTBOX = HERE.parent / "outbox"
THREAD = f"demo-{secrets.token_hex(4)}"
QUOTATION = re.compile(r"\u201c([^\u201d]+)\u201d \[(\d+)\]")
SOURCE = re.compile(r"^\[(\d+)\] (.+), characters (\d+)-(\d+)$", re.MULTILINE)


def main() -> int:
    """Run the demo; 0 when every step did what it says and every quotation is verbatim."""
    brief = ["--company", "Tidewater Instruments", "--dossier", str(DOSSIER), "--outbox", str(OUTBOX)]
    offer = "We help small teams to read field instruments from afar, without a second set of books."
    start = ["run", "outreach", *brief, "--offer", offer, "--to", "post@tidewater.example", "--thread", THREAD]

    say("1. An agent researches a company, and is killed (SIGKILL) in the middle of drafting.")
    killed = run([sys.executable, "-m", "holdfast.chaos", "draft:model", "--", *start], shown="holdfast run outreach …")
    expect(killed != 0, "the process was to be killed")
    print(f"   the process is gone (exit status {killed})")

    say("2. Another process takes the thread up: research, plan and select are not done again.")
    expect(holdfast("resume", THREAD) == 0, "the thread was to be resumed")

    say("3. Nothing leaves before a person has said yes.")
    expect(holdfast("approve", THREAD, "--by", "you") == 0, "the message was to be sent")

    say("4. Every quotation in the message, looked up in the dossier by other code than the agent's:")
    return check(Path(receipt()))


def say(text: str) -> None:
    print(f"\n\u2500\u2500 {text}", flush=True)


def holdfast(*arguments: str) -> int:
    """Run the command as a person would."""
    return run([sys.executable, "-m", "holdfast.serving", *arguments], shown=f"holdfast {' '.join(arguments)}")


def run(command: list[str], shown: str) -> int:
    print(f"$ {shown}", flush=True)
    return subprocess.run(command, check=False).returncode


def receipt() -> str:
    """The path of the message that was sent, from the thread's own record."""
    command = [sys.executable, "-m", "holdfast.serving", "show", THREAD, "--json"]
    state = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout)
    return str(state["values"]["receipt"]["path"])


def check(path: Path) -> int:
    """Compare the message's quotations with the documents."""
    with path.open("rb") as file:
        body = email.message_from_binary_file(file, policy=email.policy.default).get_content().replace("\r\n", "\n")
    texts = {document.name: document.text for document in load_folder(DOSSIER).documents}
    sources = {number: (name, int(start), int(end)) for number, name, start, end in SOURCE.findall(body)}
    quotations = QUOTATION.findall(body)
    for text, number in quotations:
        name, start, end = sources[number]
        expect(texts[name][start:end] == text, f"quotation {number} does not stand in {name}: {text}")
        print(f"   [{number}] verbatim in {name}, characters {start}-{end}")
    expect(len(quotations) > 0, "the message quotes nothing")
    print(f"\n{len(quotations)} of {len(quotations)} quotations are verbatim. The message: {path}")
    return 0


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(f"demo failed: {otherwise}")


if __name__ == "__main__":
    sys.exit(main())
