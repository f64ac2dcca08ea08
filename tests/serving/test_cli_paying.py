"""The outreach agent pays: what it may spend, what it did, and for whom, killed or not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpointing import Database
from holdfast.serving.__main__ import main
from tests.support.openai_server import OpenAIServer
from tests.support.till import GIVEN, Till

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]
MODEL = ("--model", "openai:gpt-test", "--price", GIVEN, "--thread", "t")
ALL = Counter(research=3, plan=1, select=1, draft=1)


@pytest.fixture
def till() -> Till:
    """What the server has served."""
    return Till()


@pytest.fixture
def server(till: Till) -> Iterator[OpenAIServer]:
    with OpenAIServer(till) as running:
        yield running


@pytest.fixture
def holdfast(
    database_uri: str, db: Database, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """The command in this process, on this test's database, with a model over HTTP."""
    for name, value in {
        "HOLDFAST_DATABASE_URI": database_uri,
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "test",
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


def start(holdfast: Run, dossier: Path, *more: str) -> int:
    return holdfast("run", "outreach", "--company", "Tidewater Instruments", "--dossier", str(dossier), *more)


def complaint(capsys: Out) -> str:
    """The last line on stderr, after those of the stages."""
    return capsys.readouterr().err.splitlines()[-1]


def costs(holdfast: Run, capsys: Out, by: str) -> dict[str | None, Decimal]:
    """What `holdfast costs` says, without what was free."""
    capsys.readouterr()
    assert holdfast("costs", "--by", by, "--json") == 0
    lines: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["lines"]
    return {line["key"]: Decimal(line["cost"]) for line in lines if Decimal(line["cost"])}


def spent(holdfast: Run, capsys: Out) -> dict[str, Decimal]:
    """What `holdfast budget list` says of this day, by scope."""
    capsys.readouterr()
    assert holdfast("budget", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    days = {each["scope"]: each["windows"][-1] for each in listed}
    assert {Decimal(day["reserved"]) for day in days.values()} == {Decimal(0)}
    return {scope: Decimal(day["spent"]) for scope, day in days.items()}


def test_a_run_is_charged_to_the_agent_and_to_whom_it_is_for(
    holdfast: Run, till: Till, dossier: Path, capsys: Out
) -> None:
    assert start(holdfast, dossier, *MODEL, "--tenant", "acme", "--budget", "5", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["tenant"], shown["budget"]) == ("acme", "5")
    assert costs(holdfast, capsys, "node") == till.by_node
    assert costs(holdfast, capsys, "model") == {"gpt-test": till.total}
    assert costs(holdfast, capsys, "thread") == {"t": till.total}
    assert costs(holdfast, capsys, "tenant") == {"acme": till.total}
    assert spent(holdfast, capsys) == dict.fromkeys(("agent:outreach", "tenant:acme", "thread:t"), till.total)
    assert holdfast("approve", "t", "--json") == 0
    assert spent(holdfast, capsys)["thread:t"] == till.total


def test_a_used_up_budget_stops_the_run_and_a_raised_one_lets_it_go_on(
    holdfast: Run, till: Till, db: Database, dossier: Path, capsys: Out
) -> None:
    assert start(holdfast, dossier, *MODEL, "--budget", "0.82") == 2
    line = complaint(capsys)
    assert line.startswith("holdfast: RunFailed: select failed: BudgetExceeded: budget 'thread:t': this call may cost")
    assert "`holdfast budget set thread:t --per-run …`" in line
    assert "nothing is lost, go on with: holdfast resume t" in line
    assert holdfast("show", "t") == 0
    shown = capsys.readouterr().out
    assert "budget   0.82 USD" in shown
    assert "thread t failed in select: BudgetExceeded(" in shown
    assert "of 0.82 USD are left in this run; it was not made" in shown
    assert "Findings" in shown.splitlines()
    assert holdfast("resume", "t") == 2  # as it was started
    assert "BudgetExceeded" in complaint(capsys)
    assert till.asked == Counter(research=3, plan=1)

    assert holdfast("budget", "set", "thread:t", "--per-run", "2", "--by", "ada") == 0
    assert holdfast("resume", "t") == 0
    assert "holdfast approve t" in capsys.readouterr().out
    assert till.asked == ALL
    assert costs(holdfast, capsys, "node") == till.by_node


def test_a_limit_of_a_tenant_holds_over_all_its_threads(holdfast: Run, till: Till, dossier: Path, capsys: Out) -> None:
    assert holdfast("budget", "set", "tenant:acme", "--daily", "0.82") == 0
    assert start(holdfast, dossier, *MODEL, "--tenant", "acme") == 2
    assert "budget 'tenant:acme'" in complaint(capsys)
    assert start(holdfast, dossier, *MODEL[:-1], "second", "--tenant", "acme") == 2
    assert "research failed: BudgetExceeded" in complaint(capsys)
    assert start(holdfast, dossier, *MODEL[:-1], "third", "--tenant", "globex") == 0


def test_a_model_without_a_price_starts_no_thread(holdfast: Run, db: Database, dossier: Path, capsys: Out) -> None:
    assert start(holdfast, dossier, "--model", "openai:gpt-test", "--thread", "t") == 2
    line = complaint(capsys)
    assert line.startswith("holdfast: UnpricedModel: no price is known for model 'gpt-test'")
    assert "--price IN,OUT" in line
    assert db.threads.recent() == []


def test_a_thread_of_an_earlier_release_takes_its_price_from_the_environment(
    holdfast: Run, db: Database, dossier: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(holdfast, dossier, *MODEL, "--budget", "0.01") == 2
    settings = db.threads.recall("t")
    db.threads.remember("t", {name: settings[name] for name in settings if name not in ("price", "budget", "tenant")})
    assert holdfast("resume", "t") == 2
    assert "UnpricedModel" in complaint(capsys)
    monkeypatch.setenv("HOLDFAST_PRICE", "cheap")
    assert holdfast("resume", "t") == 2
    assert "InvalidPrice: 'cheap' is no price" in complaint(capsys)
    monkeypatch.setenv("HOLDFAST_PRICE", GIVEN)
    assert holdfast("resume", "t") == 0


def test_the_offline_model_is_free_without_the_price_list(
    environment: dict[str, str], dossier: Path, tmp_path: Path
) -> None:
    """As it is where the extra `budgets` is not installed; a price of one's own does for other models, too."""
    hidden = (
        "import sys; sys.modules['genai_prices'] = None; from holdfast.serving.__main__ import main; sys.exit(main())"
    )
    run = ["run", "outreach", "--company", "T", "--dossier", str(dossier), "--budget", "0.01", "--json"]
    ran = subprocess.run(
        [sys.executable, "-c", hidden, *run], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["status"] == "waiting"


@pytest.mark.parametrize("point", ["research:model_end", "research:tool_end", "select:model", "draft:model_end"])
def test_a_kill_is_paid_for_once(
    point: str,
    holdfast: Run,
    till: Till,
    server: OpenAIServer,
    environment: dict[str, str],
    dossier: Path,
    tmp_path: Path,
    capsys: Out,
) -> None:
    run = ["run", "outreach", "--company", "Tidewater Instruments", "--dossier", str(dossier), *MODEL]
    killed = subprocess.run(
        [sys.executable, "-m", "holdfast.chaos", point, "--", *run, "--budget", "5"],
        env=environment | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert holdfast("resume", "t", "--json") == 0
    assert till.asked == ALL
    assert costs(holdfast, capsys, "node") == till.by_node
    assert spent(holdfast, capsys) == {"agent:outreach": till.total, "thread:t": till.total}


def test_a_kill_while_a_call_is_served_counts_it_until_somebody_knows_what_it_did_cost(
    holdfast: Run,
    till: Till,
    server: OpenAIServer,
    environment: dict[str, str],
    dossier: Path,
    tmp_path: Path,
    capsys: Out,
) -> None:
    """Its answer is lost: it counts as the most that it can have cost, and by the provider's records as what it did."""
    lost: list[Decimal] = []

    def strike(stage: str) -> None:
        if stage == "draft" and not lost:
            lost.append(till.last)
            child.kill()
            child.wait()

    till.before = strike
    run = ["run", "outreach", "--company", "Tidewater Instruments", "--dossier", str(dossier), *MODEL]
    child = subprocess.Popen(
        [sys.executable, "-m", "holdfast.serving", *run],
        env=environment | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert child.wait() == -signal.SIGKILL
    assert holdfast("budget", "outstanding", "--json") == 0
    (held,) = json.loads(capsys.readouterr().out)
    assert (held["state"], held["name"], held["thread_id"]) == ("held", "gpt-test", "t")
    assert Decimal(held["usd"]) > lost[0]

    assert holdfast("resume", "t", "--json") == 0
    assert till.asked == ALL + Counter(draft=1)
    unknown = Decimal(held["usd"]) - lost[0]
    assert costs(holdfast, capsys, "node") == {**till.by_node, "draft/model": till.by_node["draft/model"] + unknown}
    assert spent(holdfast, capsys) == {"agent:outreach": till.total + unknown}
    assert holdfast("budget", "resolve", held["reservation"], "--cost", f"{lost[0]:f}") == 0
    assert costs(holdfast, capsys, "node") == till.by_node
    assert spent(holdfast, capsys) == {"agent:outreach": till.total}
