"""What `load_folder` promises."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter

from holdfast.checkpointing import HoldfastError
from holdfast.nodes import DossierEmpty, DossierNotAllowed, DossierNotFound, Loaded, dossier, load_folder

SAMPLE_PDF = (
    Path(__file__).resolve().parents[2] / "samples/tidewater-instruments/press/annual-letter-2025.pdf"
).read_bytes()
MARKUP = (
    b"<![",
    b"<!",
    b"<?xml ",
    b"<p>",
    b"</p>",
    b"<a href='",
    b"&#0;",
    b"&#55296;",
    b"]]>",
    b"<!--",
    b">",
    b"x\xff",
)
NOBODY = 65534


@contextmanager
def without_root() -> Generator[None]:
    """The super-user reads everything; permissions show only for somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def write(folder: Path, **files: bytes | str) -> Path:
    """Write files into the folder; in a name `__` stands for a dot."""
    for name, content in {"good__md": "Some text.", **files}.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def problem_of(loaded: Loaded, name: str) -> str:
    """Why one file was left out; it must be the only one."""
    assert [document.name for document in loaded.documents] == ["good.md"]
    assert [(problem["node"], problem["subject"]) for problem in loaded.problems] == [("research", name)]
    return loaded.problems[0]["problem"]


def text_of(folder: Path, name: str) -> str:
    return next(document.text for document in load_folder(folder).documents if document.name == name)


def pdf_of(text: str, to_unicode: str = "") -> bytes:
    """A PDF of one page that shows `text`; `to_unicode` maps its letter A to UTF-16 hex digits."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def "
        "1 begincodespacerange <00> <FF> endcodespacerange\n"
        f"1 beginbfchar\n<41> <{to_unicode}>\nendbfchar\nendcmap end end"
    )
    bodies = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica" + (" /ToUnicode 6 0 R >>" if to_unicode else " >>"),
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    out, offsets = b"%PDF-1.4\n", list[int]()
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(bodies) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
    return out + f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_all_four_formats_are_read_below_the_folder_in_order_of_their_names(dossier: Path) -> None:
    loaded = load_folder(dossier)
    assert loaded.problems == []
    assert sorted(document.name for document in loaded.documents) == [
        "about.md",
        "customers/harbour-trust-case.txt",
        "engineering/data-pipeline.md",
        "operations/field-service-2026.md",
        "operations/incident-review-march.txt",
        "press/annual-letter-2025.pdf",
        "press/interview-founder.html",
        "products/gauge-line.md",
    ]
    assert all(len(document.text.split()) > 50 for document in loaded.documents)
    assert all("<p" not in document.text and "%PDF" not in document.text for document in loaded.documents)


def test_the_same_folder_loads_the_same_twice(dossier: Path) -> None:
    assert load_folder(dossier) == load_folder(str(dossier))


def test_html_is_read_as_its_visible_text(tmp_path: Path) -> None:
    page = (
        "<html><head><title>T</title><style>p{}</style></head><body><nav>Menu</nav><p>Caf\u00e9 &amp; bar</p>"
        "<script>x()</script><p>Two</p></body></html>"
    )
    assert text_of(write(tmp_path, page__html=page), "page.html") == "Caf\u00e9 & bar\n\nTwo"


@pytest.mark.parametrize("inside", ["was\nwrapped", "was <b>wrapped</b>", 'was <a href="x">wrapped</a>'])
def test_a_paragraph_of_html_stays_one_paragraph(tmp_path: Path, inside: str) -> None:
    """A browser shows one line; a sentence torn over paragraphs cannot be found or quoted as one."""
    folder = write(tmp_path, page__html=f"<p>This sentence {inside} here.</p><p>Two.</p>")
    assert text_of(folder, "page.html") == "This sentence was wrapped here.\n\nTwo."


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("one<br>two<hr/>three", "one\n\ntwo\n\nthree"),
        ("<ul><li>one<li>two</ul>three", "one\n\ntwo\n\nthree"),
        ("<td>one</td><td>two</td>", "one\n\ntwo"),
        ("before<nav>Menu</nav>after", "before\n\nafter"),
        ("<DIV>one</DIV>two", "one\n\ntwo"),
        ("a\n \t&nbsp;b", "a b"),
        ("w<i>or</i>d &lt;p&gt; &#x41;&#66;&eacute;", "word <p> AB\u00e9"),
        ("one<!-- <p>no</p> -->, two<!doctype html>", "one, two"),
        ("a < b <= c", "a < b <= c"),
        ("a <template><p>no</p></template>b", "a b"),
    ],
)
def test_block_elements_end_a_paragraph_of_html_and_inline_ones_do_not(tmp_path: Path, page: str, text: str) -> None:
    assert text_of(write(tmp_path, page__html=page), "page.html") == text


@pytest.mark.parametrize(
    "page",
    [
        "<template>a<template>b</template>c</template>seen",
        "<nav><noscript>a</noscript>b<br><img src=x><input>c</nav>seen",
        "<div><nav>a</div>seen",
        "<nav><b>a</i></nav>seen",
        "<script>'</p><nav>' + \"<!--\"</script>seen",
        "<style>a</style><noscript><style>b</style></noscript>seen",
        "</nav></head>seen<script/>",
        "<head><title>a</title></head>seen",
        "<head><meta name=x><title>a<body>seen",
        "<head><link rel=x><title>a</title><p>seen",
        "<head><title>a</title><body><nav>b</nav>seen",
    ],
)
def test_html_that_is_not_shown_is_left_out_and_nothing_else(tmp_path: Path, page: str) -> None:
    assert text_of(write(tmp_path, page__html=page), "page.html") == "seen"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_html_is_read_whatever_it_declares(tmp_path: Path, encoding: str) -> None:
    page = "<meta charset=latin1><p>\u6771\u4eac".encode(encoding)
    assert text_of(write(tmp_path, a__html=page), "a.html") == "\u6771\u4eac"


@pytest.mark.parametrize(
    ("declaration", "encoding", "text"),
    [
        ("<meta charset=iso-8859-1>", "latin-1", "caf\u00e9"),
        ("<META CHARSET = 'ISO-8859-1'/>", "cp1252", "\u201ccaf\u00e9\u201d"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251", "\u0432\u043e"),
        ('<meta name="x"><meta charset="shift_jis">', "shift_jis", "\u6771\u4eac"),
    ],
)
def test_html_that_is_not_utf8_is_read_as_it_declares(
    tmp_path: Path, declaration: str, encoding: str, text: str
) -> None:
    page = f"<head>{declaration}</head>{text}".encode(encoding)
    assert text_of(write(tmp_path, a__html=page), "a.html") == text


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (b"caf\xe9", r"not UTF-8 text \(byte 3\)"),
        (b"<meta charset=utf-8>caf\xe9", "not UTF-8 text"),
        (b"<meta charset=nonsense>caf\xe9", "not UTF-8 text"),
        (b"<meta charset=unicode_escape>caf\xe9", "not UTF-8 text"),
        (b"<meta charset=hex>caf\xe9", "not UTF-8 text"),
        (b"<meta charset=shift_jis>caf\xe9", "not UTF-8 text"),
        (b" " * 2048 + b"<meta charset=latin1>caf\xe9", "not UTF-8 text"),
        (b"\xef\xbb\xbf<meta charset=latin1>caf\xe9", "not UTF-8 text"),
        (b"\xff\xfea\x00b", "not UTF-16 text"),
    ],
)
def test_html_in_no_known_encoding_is_reported_and_left_out(tmp_path: Path, page: bytes, reason: str) -> None:
    assert re.search(reason, problem_of(load_folder(write(tmp_path, a__html=page)), "a.html"))


def test_a_big_flat_page_is_read(tmp_path: Path) -> None:
    """It has a hundred thousand siblings; what looks at them one by one for each takes hours."""
    assert text_of(write(tmp_path, a__html="text<br>\n" * 100_000), "a.html").split() == ["text"] * 100_000


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<div>" * 100_000, ""),
        ("<nav>" * 100_000 + "</head>" * 100_000 + "</nav>" * 100_000, ""),
        ("<" * 100_000, "<" * 100_000),
        ("<!--" * 100_000, ""),
        ("<!--x>" * 100_000, ""),
        ("<!-- x -->" + "<!--x>" * 100_000, ""),
        ("<![CDATA[x>" * 100_000, ""),
        ("<a" * 100_000, ""),
        ("<a href='" * 100_001, ""),
        ("</a" * 100_000, ""),
        ("<?" * 100_000, ""),
    ],
    ids=["deep", "nav", "<", "<!--", "<!-->", "comment", "CDATA", "<a", "quotes", "</a", "<?"],
)
def test_a_page_full_of_what_nothing_closes_is_read(tmp_path: Path, page: str, text: str) -> None:
    """An endless search for each of these ends takes minutes."""
    assert text_of(write(tmp_path, a__html=f"seen<p>{page}"), "a.html") == f"seen\n\n{text}".strip()


def test_pdf_is_read_as_its_text(tmp_path: Path) -> None:
    assert text_of(write(tmp_path, page__pdf=pdf_of("The pump failed")), "page.pdf") == "The pump failed"


@pytest.mark.parametrize("name", ["A.MD", "b.Txt", "c.HTM", "d.HTML", "e.PDF"])
def test_suffixes_count_in_any_case(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SAMPLE_PDF if name.endswith("PDF") else b"<p>Words</p>")
    assert [document.name for document in load_folder(tmp_path).documents] == [name]


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
def test_line_ends_become_newlines(tmp_path: Path, newline: str) -> None:
    folder = write(tmp_path, a__txt=f"one{newline}{newline}two")
    assert text_of(folder, "a.txt") == "one\n\ntwo"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_text_is_read_with_or_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    text = "Gr\u00fc\u00dfe aus \u6771\u4eac \U0001f600"
    assert text_of(write(tmp_path, a__txt=text.encode(encoding)), "a.txt") == text


def test_big_endian_utf16_is_read_by_its_mark(tmp_path: Path) -> None:
    assert text_of(write(tmp_path, a__txt=b"\xfe\xff" + "caf\u00e9".encode("utf-16-be")), "a.txt") == "caf\u00e9"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("latin.txt", "caf\u00e9".encode("latin-1"), r"not UTF-8 text \(byte 3\)"),
        ("half.txt", b"\xff\xfea\x00b", "not UTF-16 text"),
        ("nul.md", b"some\x00text", "NUL"),
        ("utf16-without-mark.txt", "text".encode("utf-16-le"), "NUL"),
        ("empty.txt", b"", "no text"),
        ("blank.md", b" \n\t\r\n", "no text"),
        ("mark-only.txt", b"\xef\xbb\xbf", "no text"),
        ("blank.html", b"<html><script>x()</script></html>", "no text"),
        ("broken.pdf", b"%PDF-1.4\nnothing", "damaged or protected PDF"),
        ("empty.pdf", b"", "damaged or protected PDF"),
        ("half.pdf", SAMPLE_PDF[: len(SAMPLE_PDF) // 2], "damaged or protected PDF|no text"),
        ("not-a.pdf", b"<p>Words</p>", "damaged or protected PDF"),
    ],
)
def test_a_file_that_is_no_text_is_reported_and_left_out(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    write(tmp_path)
    (tmp_path / name).write_bytes(data)
    assert re.search(reason, problem_of(load_folder(tmp_path), name))


@pytest.mark.parametrize("filter_name", [b"/FluteDecode", b"/Fl", b"/JBIG2Decode"])
def test_a_pdf_with_a_filter_that_cannot_be_read_is_reported_and_left_out(tmp_path: Path, filter_name: bytes) -> None:
    folder = write(tmp_path, odd__pdf=SAMPLE_PDF.replace(b"/FlateDecode", filter_name))
    assert problem_of(load_folder(folder), "odd.pdf")


def test_broken_pdfs_print_nothing(tmp_path: Path) -> None:
    """The reader logs what it finds odd, and Python prints that where logging is not set up."""
    write(tmp_path, a__pdf="nothing", b__pdf="%PDF-1.4\nnothing", c__pdf=SAMPLE_PDF[: len(SAMPLE_PDF) // 2])
    code = "import sys; from holdfast.nodes import load_folder; print(len(load_folder(sys.argv[1]).problems))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_reading_a_pdf_leaves_the_readers_logger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("pypdf")
    monkeypatch.setattr(logger, "level", logging.INFO)
    load_folder(write(tmp_path, a__pdf="nothing"))
    assert logger.level == logging.INFO


def test_a_pdf_that_needs_a_password_is_reported_and_left_out(tmp_path: Path) -> None:
    writer, out = PdfWriter(clone_from=BytesIO(SAMPLE_PDF)), BytesIO()
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(out)
    assert "protected" in problem_of(load_folder(write(tmp_path, locked__pdf=out.getvalue())), "locked.pdf")


@pytest.mark.parametrize("markup", [b"<![if !mso]>Words<![endif]>", b"<![foo x]>text", b"a <![", b"<p>a</p><!["])
def test_odd_markup_never_ends_the_loading(tmp_path: Path, markup: bytes) -> None:
    """Word's own exports hold conditional sections; a browser shows such pages."""
    loaded = load_folder(write(tmp_path, odd__html=markup))
    assert len(loaded.documents) + len(loaded.problems) == 2


@pytest.mark.parametrize(
    "content", ["notes.txt", "https://example.com/page", "<?xml version='1.0'?><html><p>a</p></html>"]
)
def test_html_is_read_without_warnings_whatever_it_looks_like(tmp_path: Path, content: str) -> None:
    assert text_of(write(tmp_path, a__html=content), "a.html")


def test_deeply_nested_markup_is_read(tmp_path: Path) -> None:
    assert text_of(write(tmp_path, a__html="<div>" * 5000 + "deep"), "a.html") == "deep"


def test_a_pdf_whose_letters_are_half_characters_leaves_no_half_characters_in_the_text(tmp_path: Path) -> None:
    """A lone surrogate cannot be digested, stored or sent: it has no UTF-8."""
    for document in load_folder(write(tmp_path, a__pdf=pdf_of("pump A", to_unicode="D83D"))).documents:
        assert document.text.encode().decode() == document.text
        assert document.digest


def test_a_file_name_that_is_no_unicode_can_be_stored_or_is_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("some text")
    loaded = load_folder(tmp_path)
    names = [document.name for document in loaded.documents] + [problem["subject"] for problem in loaded.problems]
    assert len(names) == 2
    assert all(name.encode().decode() == name for name in names)


def test_hidden_files_folders_and_other_kinds_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git")
    folder = write(tmp_path, __hidden__md="hidden", data__csv="a,b", README="read me", photo__png=b"\x89PNG")
    loaded = load_folder(folder)
    assert [document.name for document in loaded.documents] == ["good.md"]
    assert loaded.problems == []


def test_a_folder_with_a_documents_suffix_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.md").mkdir()
    write(tmp_path / "notes.md")
    assert [document.name for document in load_folder(tmp_path).documents] == ["notes.md/good.md"]


def test_a_link_that_leads_out_of_the_folder_is_reported_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    write(inside)
    (inside / "link.md").symlink_to(tmp_path / "secret.md")
    assert "out of the folder" in problem_of(load_folder(inside), "link.md")


def test_a_linked_folder_outside_is_not_entered(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    write(outside, secret__md="secret")
    write(inside)
    (inside / "door").symlink_to(outside)
    assert [document.name for document in load_folder(inside).documents] == ["good.md"]


def test_a_link_within_the_folder_is_read(tmp_path: Path) -> None:
    (write(tmp_path) / "link.md").symlink_to("good.md")
    assert text_of(tmp_path, "link.md") == "Some text."


@pytest.mark.parametrize("target", ["nowhere.md", "link.md"], ids=["dangling", "in a circle"])
def test_a_link_to_nowhere_is_reported_and_left_out(tmp_path: Path, target: str) -> None:
    (write(tmp_path) / "link.md").symlink_to(target)
    assert problem_of(load_folder(tmp_path), "link.md")


def test_a_named_pipe_is_reported_and_never_waited_for(tmp_path: Path) -> None:
    write(tmp_path)
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    assert problem_of(load_folder(tmp_path), "pipe.txt") == "not a regular file"


def test_a_file_above_the_limit_is_reported_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dossier, "MAX_BYTES", 20)
    assert "larger than" in problem_of(load_folder(write(tmp_path, big__txt="x" * 21)), "big.txt")


def test_a_file_at_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dossier, "MAX_BYTES", 20)
    assert text_of(write(tmp_path, big__txt="x" * 20), "big.txt") == "x" * 20


def test_a_file_without_permission_is_reported_and_left_out(open_folder: Path) -> None:
    (write(open_folder, locked__txt="locked") / "locked.txt").chmod(0)
    with without_root():
        loaded = load_folder(open_folder)
    assert problem_of(loaded, "locked.txt") == "Permission denied"


def test_a_folder_below_without_permission_is_not_passed_over_in_silence(open_folder: Path) -> None:
    (write(open_folder) / "locked").mkdir(mode=0)
    with without_root():
        loaded = load_folder(open_folder)
    assert "locked" in [problem["subject"] for problem in loaded.problems]


def test_a_folder_without_permission_is_not_found(open_folder: Path) -> None:
    (open_folder / "locked").mkdir(mode=0)
    with without_root(), pytest.raises(DossierNotFound, match="no permission"):
        load_folder(open_folder / "locked")


@pytest.mark.parametrize("name", ["missing", "file.md", "\x00", "~no-such-user-here/x", "\ud800", "x" * 5000])
def test_what_is_no_folder_is_not_found(tmp_path: Path, name: str) -> None:
    write(tmp_path, file__md="text")
    with pytest.raises(DossierNotFound):
        load_folder(name if name.startswith("~") else f"{tmp_path}/{name}")


def test_an_empty_folder_is_an_empty_dossier(tmp_path: Path) -> None:
    with pytest.raises(DossierEmpty, match=r"a dossier is a folder with .md, .txt, .html or .pdf files"):
        load_folder(tmp_path)


def test_an_empty_dossier_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DossierEmpty, match=r"left out: a\.txt: not UTF-8 text"):
        load_folder(tmp_path)


def test_a_folder_in_or_below_the_allowed_one_is_read(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    write(below)
    assert load_folder(below, within=tmp_path) == load_folder(below, within=below) == load_folder(below)


def test_a_folder_outside_the_allowed_one_is_refused(tmp_path: Path) -> None:
    allowed, sibling = tmp_path / "allowed", tmp_path / "allowed-not"
    allowed.mkdir()
    sibling.mkdir()
    write(sibling)
    (allowed / "door").symlink_to(sibling)
    for way in (sibling, tmp_path, allowed / ".." / "allowed-not", allowed / "door"):
        with pytest.raises(DossierNotAllowed):
            load_folder(way, within=allowed)


@st.composite
def damaged_pdfs(draw: st.DrawFn) -> bytes:
    data = bytearray(SAMPLE_PDF)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 30))] = draw(st.binary(max_size=8) | st.just(b"/Fl"))
    return bytes(data)


CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(MARKUP) | st.binary(max_size=4), max_size=30).map(b"".join),
    st.text().map(lambda text: text.encode("utf-16", "surrogatepass")),
)
FILES = st.tuples(st.sampled_from([".md", ".txt", ".html", ".htm"]), CONTENTS) | st.tuples(
    st.just(".pdf"), damaged_pdfs() | CONTENTS
)


@settings(deadline=None, max_examples=300)
@given(file=FILES)
@example(file=(".html", b"<![foo x]>"))
@example(file=(".html", b"a <![endif"))
@example(file=(".pdf", SAMPLE_PDF.replace(b"/FlateDecode", b"/Fl")))
def test_no_content_whatever_raises_anything_but_a_named_error(file: tuple[str, bytes]) -> None:
    suffix, content = file
    with tempfile.TemporaryDirectory() as name:
        Path(name, f"file{suffix}").write_bytes(content)
        with suppress(HoldfastError):
            (document,) = load_folder(name).documents
            assert document.text.encode()
            assert document.text.strip()
            assert "\x00" not in document.text
            assert "\r" not in document.text
