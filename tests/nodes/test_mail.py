"""What composing and delivering a message promise."""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta, timezone
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from hypothesis import given, reject
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from holdfast.nodes import DeliveryFailed, Email, InvalidBrief, Letter, SmtpServer
from holdfast.nodes.approve import EmailArgs
from holdfast.nodes.mail import address_problem, compose, write_eml

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "X-Holdfast-Thread",
    "X-Holdfast-Model",
    "Content-Type",
    "Content-Transfer-Encoding",
    "MIME-Version",
}
INJECTED = "X-Injected: yes"
PIECES = st.sampled_from(
    ["\r\n", "\n", "\r", "\u2028", "\x85", "\v", "\x00", " ", INJECTED, "=?utf-8?q?a", "=0D=0A", "?=", "x", "\u00e9"]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80) | st.lists(
    PIECES, min_size=1, max_size=8
).map("".join)


def email(**changes: Any) -> Email:
    plain = Email(
        sender="Me <me@example.com>", to="ada@example.com", subject="Hello", body="Hi.\n", drafted_by="offline"
    )
    return TypeAdapter(Email).validate_python({**plain, **changes})


def composed(readable: bool = False, /, thread_id: str = "thread-1", at: datetime = AT, **changes: Any) -> EmailMessage:
    return compose(email(**changes), thread_id=thread_id, at=at, readable=readable)


def parsed(message: EmailMessage) -> EmailMessage:
    """The message as a reader of its bytes finds it."""
    found = BytesParser(policy=policy.default).parsebytes(message.as_bytes())
    assert isinstance(found, EmailMessage)
    return found


def newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.com",
        "Ada <ada@example.com>",
        "Ada Lovelace (math) <ada@example.com>",
        '"Lovelace, Ada" <ada@example.com>',
        "Jos\u00e9 <jose@example.com>",
        "a+b.c@sub.example.com",
        "draft@localhost",
        "ada@[127.0.0.1]",
    ],
)
def test_one_address_has_no_problem(address: str) -> None:
    assert address_problem(address) is None
    assert parsed(composed(to=address))["To"].addresses[0].domain


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ada",
        "ada at example.com",
        "@",
        "ada@",
        "@example.com",
        "ada@example.com, eve@example.com",
        "ada@example.com eve@example.com",
        "ada@example.com; eve@example.com",
        "ada@example.com\r\nBcc: eve@example.com",
        "ada@example.com\nBcc: eve@example.com",
        "ada@example.com\rBcc: eve@example.com",
        "Ada\r\n <ada@example.com>",
        "\x00ada@example.com",
        "ada@example.com\x7f",
        "ada@example.com\u2028Bcc: eve@example.com",
        "=?utf-8?q?x=0D=0ABcc:_eve=40example.com?= <ada@example.com>",
        "<ada@example.com",
        "ada@example.com>",
        "ada@ex ample.com",
        "ada@@example.com",
        "ada@example..com",
        "\ud800@example.com",
    ],
)
def test_what_is_not_exactly_one_address_has_a_problem(text: str) -> None:
    assert address_problem(text)


@pytest.mark.parametrize("text", ["team: ada@example.com;", "team: ada@example.com, eve@example.com;", "team:;@"])
def test_a_group_is_not_one_address(text: str) -> None:
    assert address_problem(text)


@pytest.mark.parametrize("text", ["ada@ex\u00e4mple.com", "ada@example\u3002com", "ada@example.com\x85"])
def test_an_address_beyond_ascii_is_refused_or_stands_in_the_header_as_it_is(text: str) -> None:
    """RFC 2047 section 5: an encoded word must not be part of an address."""
    assert address_problem(text) or b"=?" not in composed(to=text).as_bytes()


@pytest.mark.parametrize("mark", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("form", ["Ada{}L <ada@example.com>", '"Ada{}L" <ada@example.com>', "ada@example.com (x{}y)"])
def test_a_line_end_of_any_kind_in_an_address_is_refused_before_it_is_used(form: str, mark: str) -> None:
    address = form.format(mark)
    assert address_problem(address) or composed(to=address).as_bytes()


@given(text=TEXTS)
def test_a_text_is_judged_and_never_crashes(text: str) -> None:
    problem = address_problem(text)
    assert problem is None or problem


@given(text=TEXTS | st.tuples(TEXTS, st.just(" <ada@example.com>")).map("".join))
def test_whatever_passes_as_an_address_reaches_exactly_that_header(text: str) -> None:
    if address_problem(text) is None:
        message = parsed(composed(to=text))
        assert set(message.keys()) == HEADERS
        assert len(message["To"].addresses) == 1


def test_the_same_input_is_the_same_bytes() -> None:
    assert composed().as_bytes() == composed().as_bytes()


@pytest.mark.parametrize(
    "changes", [{"subject": "Other"}, {"body": "Other"}, {"to": "eve@example.com"}, {"thread_id": "thread-2"}]
)
def test_another_content_or_thread_is_another_message(changes: dict[str, Any]) -> None:
    assert composed(**changes)["Message-ID"] != composed()["Message-ID"]


def test_a_later_approval_is_the_same_message() -> None:
    assert composed(at=AT + timedelta(days=1))["Message-ID"] == composed()["Message-ID"]


def test_the_parts_of_a_message_cannot_be_shifted_to_pose_as_another() -> None:
    first, second = (composed(subject=subject, body=body) for subject, body in [("a b", "c"), ("a", "b c")])
    assert first["Message-ID"] != second["Message-ID"]
    assert composed(subject='a", "b', body="c")["Message-ID"] != composed(subject="a", body='b", "c')["Message-ID"]


def test_the_headers_say_who_what_when_and_from_which_run() -> None:
    message = parsed(composed(subject="Gr\u00fc\u00dfe", drafted_by="mod\u00e8le"))
    assert message["From"].addresses[0].addr_spec == "me@example.com"
    assert message["To"].addresses[0].addr_spec == "ada@example.com"
    assert message["Subject"] == "Gr\u00fc\u00dfe"
    assert message["X-Holdfast-Thread"] == "thread-1"
    assert message["X-Holdfast-Model"] == "mod%C3%A8le"
    assert parsedate_to_datetime(message["Date"]) == AT


def test_the_date_keeps_its_instant_in_any_time_zone() -> None:
    at = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert parsedate_to_datetime(parsed(composed(at=at))["Date"]) == AT


def test_without_an_address_there_is_no_to() -> None:
    unaddressed = email()
    del unaddressed["to"]
    assert "To" not in compose(unaddressed, thread_id="t", at=AT)


@pytest.mark.parametrize("readable", [True, False])
@given(subject=TEXTS, to=TEXTS, body=TEXTS)
def test_no_text_can_bring_a_header_of_its_own(readable: bool, subject: str, to: str, body: str) -> None:
    try:
        message = parsed(composed(readable, subject=subject, to=f"{to} <ada@example.com>", body=body))
    except (ValueError, InvalidBrief):
        return  # refused is as good
    assert set(message.keys()) <= HEADERS
    assert len(message.keys()) == len(set(message.keys()))


@pytest.mark.parametrize("mark", ["=0D=0A", "=0A", "=0D"])
@pytest.mark.parametrize("field", ["subject", "sender", "to", "thread_id", "drafted_by"])
def test_no_encoded_word_can_bring_a_header_of_its_own(mark: str, field: str) -> None:
    """CVE-2024-6923: older Pythons write what an encoded word decodes to."""
    changes: Any = {
        field: f"=?utf-8?q?a{mark}X-Injected:_yes?=" + (" <ada@example.com>" if field in {"sender", "to"} else "")
    }
    try:
        message = composed(**changes)
    except (ValueError, InvalidBrief):
        return
    assert b"\nX-Injected" not in message.as_bytes()
    assert set(parsed(message).keys()) == HEADERS


@pytest.mark.parametrize("to", ["=?utf-8?q?a=0D=0AX-Injected?=: eve@example.com;", "=??Q?=0D?=X-Injected: <a@b.c>"])
def test_no_encoded_word_in_a_groups_name_can_bring_a_header_of_its_own(to: str) -> None:
    if address_problem(to) is None:
        assert set(parsed(composed(to=to)).keys()) == HEADERS
    try:
        message = composed(to=to)
    except (ValueError, InvalidBrief):
        return
    assert set(parsed(message).keys()) == HEADERS


@pytest.mark.parametrize("thread_id", ["t\r\nBcc: eve@example.com", "t\u2028", "\u6771\u4eac", "x" * 2000, "", "\x00"])
def test_a_message_of_any_thread_can_be_sent(thread_id: str) -> None:
    assert set(parsed(composed(thread_id=thread_id)).keys()) == HEADERS


@given(subject=TEXTS)
def test_whatever_subject_a_reviewer_may_give_can_be_sent(subject: str) -> None:
    """After the approval nobody can change it any more: an error there would be for ever."""
    try:
        accepted = EmailArgs(subject=subject, body="Hi").subject
    except ValidationError:
        reject()
    assert set(parsed(composed(subject=accepted)).keys()) == HEADERS


@pytest.mark.parametrize("mark", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("gate", ["reviewer", "model"])
def test_a_line_end_of_any_kind_in_a_subject_is_refused_before_the_approval(gate: str, mark: str) -> None:
    subject = f"Hello{mark}there"
    try:
        if gate == "reviewer":
            EmailArgs(subject=subject, body="Hi")
        else:
            TypeAdapter(Letter).validate_python({"subject": subject, "body": "Hi"})
    except ValidationError:
        return
    assert composed(subject=subject).as_bytes()


@given(body=TEXTS | st.text(st.sampled_from("a=. \t\r\nFrom\u00e9"), min_size=1))
def test_the_body_comes_back_as_it_was_but_for_its_line_ends(body: str) -> None:
    for readable in (True, False):
        content = parsed(composed(readable, body=body)).get_content()
        assert newlines(content).removesuffix("\n") == newlines(body).removesuffix("\n")


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize(
    "body", ["x" * 998, "x" * 999, "\u00e9" * 499, "\u00e9" * 500, "x" * 5000 + "\n" + "y " * 3000]
)
def test_no_line_of_a_message_is_longer_than_mail_allows(readable: bool, body: str) -> None:
    message = composed(readable, body=body, subject="x" * 998)
    assert max(map(len, message.as_bytes().split(b"\r\n"))) <= 998
    assert newlines(parsed(message).get_content()) == f"{body}\n"


def test_a_readable_message_can_be_searched_as_it_lies_there() -> None:
    assert (
        "Gr\u00fc\u00dfe aus \u6771\u4eac".encode()
        in composed(True, body="Gr\u00fc\u00dfe aus \u6771\u4eac").as_bytes()
    )
    assert composed(False, body="Gr\u00fc\u00dfe").as_bytes().isascii()


def test_writing_puts_one_whole_file_into_a_folder_that_is_made_if_need_be(tmp_path: Path) -> None:
    message = composed()
    path = write_eml(message, tmp_path / "deep" / "outbox")
    assert path.read_bytes() == message.as_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.name == f"{str(message['Message-ID'])[1:33]}.eml"


def test_writing_twice_is_the_same_as_once_even_if_the_approval_was_repeated(tmp_path: Path) -> None:
    first = write_eml(composed(), tmp_path)
    before = first.read_bytes(), first.stat().st_mtime_ns
    assert write_eml(composed(at=AT + timedelta(hours=1)), tmp_path) == first
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("outbox", ["file", "file/below"])
def test_an_outbox_that_cannot_be_written_is_a_failed_delivery(tmp_path: Path, outbox: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeliveryFailed, match="cannot write into the outbox"):
        write_eml(composed(), tmp_path / outbox)


@contextmanager
def full_disk() -> Generator[None]:
    """No file may grow beyond a few bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_full_is_a_failed_delivery_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed), full_disk():
        write_eml(composed(body="x" * 10_000), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", SmtpServer(host="mail.example.com", port=587, tls=False)),
        ("smtps://mail.example.com", SmtpServer(host="mail.example.com", port=465, tls=True)),
        ("smtp://mail.example.com:25/", SmtpServer(host="mail.example.com", port=25, tls=False)),
        ("SMTP://[::1]:2525", SmtpServer(host="::1", port=2525, tls=False)),
        ("smtp://u:p@h", SmtpServer(host="h", port=587, tls=False, username="u", password="p")),
        (
            "smtps://u%40x.org:p%3A%2F%40@h:1",
            SmtpServer(host="h", port=1, tls=True, username="u@x.org", password="p:/@"),
        ),
        ("smtp://u:p@ss@h", SmtpServer(host="h", port=587, tls=False, username="u", password="p@ss")),
        ("smtp://u@h", SmtpServer(host="h", port=587, tls=False, username="u")),
    ],
)
def test_a_url_names_host_port_encryption_and_account(url: str, expected: SmtpServer) -> None:
    assert SmtpServer.from_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com",
        "http://u:secret@h",
        "smtp://",
        "smtp://:secret@",
        "smtp:secret@h",
        "smtp://u:secret@h:port",
        "smtp://u:secret@h:99999",
        "smtp://u:secret@h:-1",
        "smtp://u:secret@h:0",
        "smtp://u:secret@[::1",
        "smtp://u:sec/ret@h",
        "smtp://u:25/secret@h",
        "smtp://u:25#secret@h",
    ],
)
def test_another_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidBrief, match="HOLDFAST_SMTP_URL is not of the form") as caught:
        SmtpServer.from_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_password_is_in_no_repr_of_the_server() -> None:
    server = SmtpServer.from_url("smtp://user:secret@h:25")
    assert "secret" not in f"{server!r} {server} {[server]}"
    assert "user" in repr(server)


class Inbox:
    """What a local server has taken; `goodbye` is its answer to QUIT."""

    def __init__(self, refuse: str = "", goodbye: str = "221 Bye") -> None:
        self.envelopes: list[Envelope] = []
        self.logins: list[Any] = []
        self.refuse = refuse
        self.goodbye = goodbye

    async def handle_DATA(self, *args: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.refuse:
            return self.refuse
        self.envelopes.append(args[2])
        return "250 OK"

    async def handle_QUIT(self, *_: Any) -> str:  # noqa: N802 - aiosmtpd's name
        return self.goodbye

    def authenticate(self, *args: Any) -> AuthResult:
        self.logins.append(args[-1])
        good = isinstance(args[-1], LoginPassword) and args[-1].password == b"right"
        return AuthResult(success=good, handled=False)

    def taken(self) -> EmailMessage:
        (envelope,) = self.envelopes
        assert isinstance(envelope.content, bytes)
        found = BytesParser(policy=policy.default).parsebytes(envelope.content)
        assert isinstance(found, EmailMessage)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def smtp_server(inbox: Inbox, **options: Any) -> Generator[SmtpServer]:
    """A real SMTP server on this machine."""
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield SmtpServer(host="localhost", port=controller.port, tls=False)
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, with its key, and the authority that signed it."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
    authority.cert_pem.write_to_path(f"{file}.crt")
    return file


@pytest.fixture
def encrypted(certificate: Path) -> dict[str, Any]:
    """The options of a server that offers STARTTLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return {"tls_context": context}


@pytest.mark.parametrize("body", ["Hi.\n", "Gr\u00fc\u00dfe\n", ".\n.\n..\n", "x" * 3000 + "\n", "From me\n"])
def test_a_server_takes_the_message_with_its_body_intact(body: str) -> None:
    inbox = Inbox()
    with smtp_server(inbox) as server:
        server.deliver(composed(body=body))
    assert inbox.envelopes[0].mail_from == "me@example.com"
    assert inbox.envelopes[0].rcpt_tos == ["ada@example.com"]
    assert inbox.taken()["Message-ID"] == composed(body=body)["Message-ID"]
    assert newlines(inbox.taken().get_content()) == body


@pytest.mark.parametrize("answer", ["550 No", "451 Later", "554 Spam"])
def test_a_server_that_refuses_is_a_failed_delivery(answer: str) -> None:
    with (
        smtp_server(Inbox(refuse=answer)) as server,
        pytest.raises(DeliveryFailed, match=r"did not take the message.*SMTPDataError"),
    ):
        server.deliver(composed())


@pytest.mark.parametrize("goodbye", ["421 Closing", "500 What", "250 OK"])
def test_a_message_that_was_taken_is_delivered_however_the_server_says_goodbye(goodbye: str) -> None:
    """To call it failed would send it twice."""
    inbox = Inbox(goodbye=goodbye)
    with smtp_server(inbox) as server:
        server.deliver(composed())
    assert inbox.taken()


def test_a_connection_that_is_refused_is_a_failed_delivery() -> None:
    port = free_port()
    with pytest.raises(DeliveryFailed, match=f"127.0.0.1:{port} did not take the message: ConnectionRefusedError"):
        SmtpServer(host="127.0.0.1", port=port, tls=False).deliver(composed())


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 300, "a..b"])
def test_a_host_that_does_not_exist_is_a_failed_delivery(host: str) -> None:
    with pytest.raises(DeliveryFailed):
        SmtpServer(host=host, port=25, tls=False).deliver(composed())


def test_a_server_without_the_encryption_that_was_asked_for_is_a_failed_delivery() -> None:
    with smtp_server(Inbox()) as plain, pytest.raises(DeliveryFailed):
        SmtpServer(host=plain.host, port=plain.port, tls=True).deliver(composed())


def test_a_password_is_never_sent_in_the_clear() -> None:
    inbox = Inbox()
    with smtp_server(inbox, authenticator=inbox.authenticate, auth_require_tls=False) as server:
        account = SmtpServer(host=server.host, port=server.port, tls=False, username="u", password="secret")
        with pytest.raises(DeliveryFailed, match="in the clear") as caught:
            account.deliver(composed())
    assert inbox.logins == []
    assert inbox.envelopes == []
    assert "secret" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(encrypted: dict[str, Any]) -> None:
    inbox = Inbox()
    with smtp_server(inbox, **encrypted) as server, pytest.raises(DeliveryFailed, match="CERTIFICATE_VERIFY_FAILED"):
        server.deliver(composed())
    assert inbox.envelopes == []


@pytest.mark.parametrize("password", ["right", "wrong", "wr\u00f6ng"])
def test_an_account_logs_in_under_encryption_or_the_delivery_fails(
    encrypted: dict[str, Any], certificate: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    inbox = Inbox()
    outcome = nullcontext() if password == "right" else pytest.raises(DeliveryFailed)
    with smtp_server(inbox, authenticator=inbox.authenticate, **encrypted) as server, outcome as failed:
        SmtpServer(host=server.host, port=server.port, tls=False, username="u", password=password).deliver(composed())
    assert len(inbox.envelopes) == (password == "right")
    assert failed is None or password not in str(failed.value)
