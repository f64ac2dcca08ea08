"""What `holdfast costs` promises: the trail's sums, as people, spreadsheets and programs read them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from holdfast.checkpointing import Database, NewEvent
from holdfast.checkpointing.costs import CostLine
from holdfast.serving import bills
from holdfast.serving.__main__ import main
from holdfast.serving.costs import GROUPINGS
from tests.support.spending import published_run

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]
HOSTILE = "\x1b[2J\x9b2J\u202e\r\nforged: line\x00"


@pytest.fixture
def holdfast(database_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in this process, on this test's database and in an empty folder."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def spend(db: Database, cost: str | None, model: str | None = "gpt-5", **more: Any) -> None:
    charged = {"model": model, **more.pop("charged", {})}
    given: dict[str, Any] = {"thread_id": "t", "kind": "model.charged", "details": {"cost": charged}}
    amount = None if cost is None else Decimal(cost)
    db.audit.append(NewEvent(actor="research", cost=amount, **{**given, **more}))


def line(key: str | None, cost: str, **more: Any) -> CostLine:
    given: dict[str, Any] = dict.fromkeys(
        ("model_calls", "tool_calls", "replayed", "input_tokens", "output_tokens", "unpriced"), 0
    )
    given |= {"unseen": Decimal(0), "estimated": Decimal(0)}
    return CostLine(key=key, cost=Decimal(cost), **(given | more))


@pytest.fixture
def spent(db: Database) -> Database:
    spend(db, "1.50", input_tokens=1_200_000, output_tokens=34_000)
    spend(db, "0.50", "small", charged={"tenant": "acme"}, input_tokens=10, thread_id="u")
    spend(db, None, None, kind="tool.completed", details={"name": "search"})
    return db


# As a table


def test_the_table_has_a_line_a_group_its_part_of_the_whole_and_the_total(
    holdfast: Run, spent: Database, capsys: Out
) -> None:
    assert holdfast("costs") == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert [row.split("  ") for row in _spaced(printed)] == [
        ["model", "model calls", "tool calls", "tokens in", "tokens out", "cost", "share"],
        ["gpt-5", "1", "0", "1,200,000", "34,000", "$1.50", "75.0 %", "#" * 24],
        ["small", "1", "0", "10", "0", "$0.50", "25.0 %", "#" * 8],
        ["(no model)", "0", "1", "0", "0", "$0.00", "0.0 %"],
        ["total", "2", "1", "1,200,010", "34,000", "$2.00", "100.0 %"],
    ]


def test_a_part_of_it_can_be_asked_for(holdfast: Run, spent: Database, capsys: Out) -> None:
    for arguments, cost in (
        (["--thread", "u"], "$0.50"),
        (["--tenant", "acme"], "$0.50"),
        (["--since", "1h"], "$2.00"),
        (["--since", "2026-03-01"], "$2.00"),
        (["--since", "2026-03-01T12:00+02:00", "--by", "day"], "$2.00"),
    ):
        assert holdfast("costs", *arguments) == 0
        assert f"{cost}  100.0 %" in _spaced(capsys.readouterr().out)[-1]
    for arguments in (["--correlation", "case-7"], ["--until", "2026-03-01"], ["--until", "1w"]):
        assert holdfast("costs", *arguments) == 0
        assert capsys.readouterr().out == "nothing was spent\n"


def test_replays_are_shown_where_there_are_any(holdfast: Run, spent: Database, capsys: Out) -> None:
    spend(spent, None, kind="model.replayed")
    assert holdfast("costs") == 0
    rows = [row.split("  ") for row in _spaced(capsys.readouterr().out)]
    assert [row[3] for row in rows] == ["replayed", "1", "0", "0", "1"]


def test_what_has_to_be_known_of_the_figures_is_said_below_them(holdfast: Run, spent: Database, capsys: Out) -> None:
    spend(spent, "0.004", charged={"unseen": True})
    spend(spent, "0.30", charged={"estimated": True})
    spend(spent, None)
    assert holdfast("costs") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "$0.004 of it went past every middleware, and was found by a callback",
        "$0.30 of it is estimated, as the provider reported no usage",
        "1 answer of a model has no known price, and no part in these sums",
    ]


def test_nothing_in_a_key_reaches_the_terminal_or_makes_a_line_of_its_own(
    holdfast: Run, db: Database, capsys: Out
) -> None:
    spend(db, "1", HOSTILE)
    spend(db, "1", "[bold red]x[/] :smile:")
    for option in ([], ["--chart"]):
        assert holdfast("costs", *option) == 0
        printed = capsys.readouterr().out
        assert all(text.isprintable() for text in printed.splitlines())
        assert "[bold red]x[/] :smile:" in printed
        assert len(printed.splitlines()) == (4 if not option else 3)


def test_in_a_terminal_bars_fill_what_is_left_of_a_line_and_no_line_is_longer() -> None:
    lines = [line("a" * 30, "3"), line(None, "1.5"), line("free", "0")]
    for width in (40, 80, 97, 100, 120, 200):
        for show in (bills.table, bills.chart):
            out = io.StringIO()
            show(
                Console(file=out, force_terminal=True, width=width, color_system=None, legacy_windows=False),
                lines,
                "node",
            )
            rows = out.getvalue().splitlines()
            assert all(len(row) <= width for row in rows)
            bars = [row.count("█") for row in rows if "█" in row]
            assert len(bars) == (2 if bars else 0)
            assert not bars or abs(bars[0] - 2 * bars[1]) <= 1
            assert bool(bars) == (width >= (97 if show is bills.table else 80))
            assert "$4.50" in rows[-1]
            assert "…" not in out.getvalue()


def test_the_chart_has_a_bar_for_each_day(holdfast: Run, database_uri: str, db: Database, capsys: Out) -> None:
    with psycopg.connect(database_uri, autocommit=True) as owner:
        for number in (1, 2, 3):
            owner.execute(
                "INSERT INTO holdfast.events VALUES ('t', %s, %s, NULL, NULL, '', NULL, NULL, 'x', 'model.charged',"
                " NULL, 1, 1, %s, NULL, 'visible', '{}', '')",
                (number, f"2026-03-0{number}T12:00Z", Decimal(4) / number),
            )
    assert holdfast("costs", "--by", "day", "--chart") == 0
    assert [row.split("  ") for row in _spaced(capsys.readouterr().out)] == [
        ["2026-03-01", "$4.0000", "54.5 %", "#" * 24],
        ["2026-03-02", "$2.0000", "27.3 %", "#" * 12],
        ["2026-03-03", "$1.3333", "18.2 %", "#" * 8],
        ["total", "$7.3333", "100.0 %"],
        ["amounts are rounded to 4 places; the total is that of the exact ones"],
    ]


# Money


@given(amounts=st.lists(st.decimals(0, 10**7, places=11), min_size=1, max_size=20))
def test_parts_that_are_shown_come_to_the_total_that_is_shown_or_it_is_said(amounts: list[Decimal]) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("click.echo", said.append)
        lines = [line(str(number), str(amount)) for number, amount in enumerate(amounts)]
        bills.table(Console(file=out, width=500), lines, "node")
    *parts, total = [
        Decimal(row[row.index("$") + 1 :].split()[0].replace(",", "")) for row in out.getvalue().splitlines()[1:]
    ]
    assert sum(parts) == total or "rounded" in said[0]
    assert all(shown or not amount for shown, amount in zip(parts, amounts, strict=True))


@pytest.mark.parametrize(
    ("amounts", "shown"),
    [
        (["2.74"], "$2.74"),
        (["1234567.5"], "$1,234,567.50"),
        (["0"], "$0.00"),
        (["0.0075"], "$0.0075"),
        (["0.00000123456"], "$0.0000012"),
        (["0.1234567"], "$0.1235"),
        (["5", "0.00001"], "$5.00001"),
        (["-0.5"], "-$0.50"),
        (["NaN"], "NaN"),
    ],
)
def test_amounts_have_cents_and_below_a_cent_what_shows_them(amounts: list[str], shown: str) -> None:
    given = [Decimal(amount) for amount in amounts]
    whole = sum(given) if len(given) > 1 else given[0]
    assert bills.dollars(Decimal(whole), bills.digits(given)) == shown


# As CSV and JSON


def test_csv_has_exact_amounts_and_one_row_a_line(holdfast: Run, spent: Database, capsys: Out) -> None:
    spend(spent, "0.000000000000123", 'a "b",\nc')
    assert holdfast("costs", "--csv") == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header[:3] == ["model", "model_calls", "tool_calls"]
    assert [(row[0], row[header.index("cost")]) for row in rows] == [
        ("gpt-5", "1.50"),
        ("small", "0.50"),
        ('a "b",\nc', "0.000000000000123"),
        ("", "0"),
    ]


@pytest.mark.parametrize("key", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", "\uff1d1"])
def test_no_key_is_a_formula_to_a_spreadsheet(key: str) -> None:
    (_, row) = csv.reader(io.StringIO(bills.as_csv([line(key, "1")], "tenant")))
    assert row[0] == f"'{key}"


def test_json_has_exact_amounts_as_text_and_the_total(holdfast: Run, spent: Database, capsys: Out) -> None:
    spend(spent, "0.00000000")
    assert holdfast("costs", "--by", "thread", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["by"], [each["key"] for each in printed["lines"]]) == ("thread", ["t", "u"])
    assert printed["lines"][0] == {
        "key": "t", "model_calls": 2, "tool_calls": 1, "replayed": 0, "input_tokens": 1_200_000,
        "output_tokens": 34_000, "cost": "1.50000000", "unseen": "0", "estimated": "0", "unpriced": 0,
    }  # fmt: skip
    assert printed["total"]["cost"] == "2.00000000"


def test_where_nothing_was_spent_it_says_so(holdfast: Run, db: Database, capsys: Out) -> None:
    for option in ([], ["--chart"]):
        assert holdfast("costs", *option) == 0
        assert capsys.readouterr().out == "nothing was spent\n"
    assert holdfast("costs", "--csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert holdfast("costs", "--json") == 0
    assert json.loads(capsys.readouterr().out)["lines"] == []


def test_a_published_run_is_reproduced_to_the_cent(holdfast: Run, db: Database, capsys: Out) -> None:
    for event in published_run():
        db.audit.append(event)
    for by in GROUPINGS:
        assert holdfast("costs", "--by", by, "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        whole = printed["total"]
        assert (whole["tool_calls"], whole["input_tokens"] + whole["output_tokens"]) == (369, 9_700_000)
        assert Decimal(whole["cost"]) == Decimal("2.74") == sum(Decimal(each["cost"]) for each in printed["lines"])
        assert holdfast("costs", "--by", by, "--csv") == 0
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert sum(Decimal(row["cost"]) for row in rows) == Decimal("2.74")
        assert holdfast("costs", "--by", by) == 0
        total = [row for row in _spaced(capsys.readouterr().out) if row.startswith("total  ")][-1].split("  ")
        assert (total[2], f"{Decimal(total[5].removeprefix('$')):.2f}") == ("369", "2.74")
        assert sum(int(count.replace(",", "")) for count in total[3:5]) == 9_700_000


BAD = {
    "no such grouping": (["--by", "colour"], "'colour' is not one of"),
    "no moment": (["--since", "yesterday"], "'yesterday' is no moment: how long ago, as in 24h or 7d, or a date"),
    "no age": (["--since", "0d"], "'0d' is no moment"),
    "an empty moment": (["--until", ""], "'' is no moment"),
    "before all time": (["--since", "0001-01-01T00:00+14:00"], "is no moment"),
    "longer ago than time": (["--since", "99999999w"], "is no moment"),
    "escapes": (["--since", "a\x1b[2J"], "'a\\x1b[2J' is no moment"),
    "backwards": (
        ["--since", "2026-03-02", "--until", "2026-03-01"],
        "--since 2026-03-02T00:00Z is not before --until",
    ),
    "two forms": (["--csv", "--json"], "--chart, --csv and --json exclude one another"),
    "no text": (["--tenant", "a\udcff"], "'a\\udcff' is no text that a database holds"),
    "an argument": (["gpt-5"], "unexpected extra argument"),
}


@pytest.mark.parametrize(("arguments", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(holdfast: Run, capsys: Out, arguments: list[str], expected: str) -> None:
    assert holdfast("costs", *arguments) == 2
    assert expected in complaint(capsys)


def _spaced(printed: str) -> list[str]:
    """The lines, with two spaces between columns."""
    return ["  ".join(filter(None, map(str.strip, row.split("  ")))) for row in printed.splitlines()]
