"""A dossier: a folder of documents about one company, read into plain text."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..checkpointing.documents import Document
from ..checkpointing.errors import HoldfastError, MissingExtra
from .contracts import Problem
from .errors import DossierEmpty, DossierNotAllowed, DossierNotFound
from .html import decoded, visible_text

MAX_BYTES: Final = 20 * 1024 * 1024
"""A larger file is reported and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a folder held: the documents, and what had to be left out."""

    documents: list[Document] = field(default_factory=list[Document])
    problems: list[Problem] = field(default_factory=list[Problem])


class _Unreadable(HoldfastError):
    """This one file cannot be used; the text says why."""


def load_folder(folder: str | Path, *, within: Path | None = None) -> Loaded:
    """Read every .md, .txt, .html and .pdf below a folder.

    A file that cannot be read (broken, encrypted, binary, too large, a link that leads out of the
    folder) is reported in `problems` and left out. Hidden files and other kinds are passed over.

    Args:
        folder: where the documents lie.
        within: if given, the folder must lie in or below this one.

    Raises:
        DossierNotFound, DossierNotAllowed, DossierEmpty: there is nothing to work on.
    """
    root = usable_folder(folder, within)
    loaded = Loaded()

    def left_out(path: str | Path, error: Exception) -> None:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        subject = _whole(Path(path).relative_to(root).as_posix())
        loaded.problems.append(Problem(node="research", subject=subject, problem=reason))

    for path in _files(root, left_out):
        try:
            loaded.documents.append(Document(name=_name(path, root), text=_read(path, root)))
        except (_Unreadable, MissingExtra, OSError, RuntimeError) as error:
            left_out(path, error)
    if not loaded.documents:
        examples = "; ".join(f"{problem['subject']}: {problem['problem']}" for problem in loaded.problems[:3])
        raise DossierEmpty(
            f"no readable document in {root}: a dossier is a folder with .md, .txt, .html or .pdf files"
            + (f" (left out: {examples})" if examples else "")
        )
    return loaded


def usable_folder(folder: str | Path, within: Path | None = None) -> Path:
    """The folder's real path.

    Raises:
        DossierNotFound, DossierNotAllowed: it is no folder, cannot be read, or lies outside `within`.
    """
    try:
        root = Path(folder).expanduser().resolve()
        # Before anything is said about whether it exists: who may not look there must not find out.
        if within is not None and not root.is_relative_to(within.resolve()):
            raise DossierNotAllowed(f"{folder} lies outside the folder where this deployment keeps its dossiers")
        root = root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise DossierNotFound(f"no such folder: {folder}; give the folder that holds the documents") from None
    if not root.is_dir():
        raise DossierNotFound(f"not a folder: {root}; give the folder that holds the documents")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DossierNotFound(f"no permission to read {root}")
    return root


def _files(root: Path, left_out: Callable[[str | Path, Exception], None]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, onerror=lambda error: left_out(error.filename, error)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in _READERS:
                yield Path(folder, name)


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    if name != _whole(name):
        raise _Unreadable("its name is not Unicode")
    return name


def _whole(text: str) -> str:
    """The text with a question mark for every half of a surrogate pair, which no database takes."""
    return text.encode("utf-8", "replace").decode()


def _read(path: Path, root: Path) -> str:
    if not path.resolve().is_relative_to(root):
        raise _Unreadable("a link that leads out of the folder")
    if not path.is_file():
        raise _Unreadable("not a regular file")
    if path.stat().st_size > MAX_BYTES:
        raise _Unreadable(f"larger than {MAX_BYTES // 1024 // 1024} MiB")
    text = _whole(_READERS[path.suffix.lower()](path.read_bytes())).replace("\r\n", "\n").replace("\r", "\n")
    if "\x00" in text:
        raise _Unreadable("holds NUL characters, so it is not text")
    if not text.strip():
        raise _Unreadable("holds no text")
    return text


def _plain(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_text(error) from error


def _not_text(error: UnicodeDecodeError) -> _Unreadable:
    encoding = error.encoding.upper().removesuffix("-LE").removesuffix("-BE")
    return _Unreadable(f"not {encoding} text (byte {error.start})")


def _html(data: bytes) -> str:
    try:
        return visible_text(decoded(data))
    except UnicodeDecodeError as error:
        raise _not_text(error) from error
    except Exception as error:  # a parser meets damaged markup with whatever it trips over
        raise _Unreadable(f"damaged HTML ({type(error).__name__}: {error})") from error


def _pdf(data: bytes) -> str:
    try:
        from pypdf import PdfReader
    except ImportError:
        raise MissingExtra("pdf", "reading PDF") from None
    try:
        with _silent_pypdf():
            pages = [page.extract_text() for page in PdfReader(io.BytesIO(data)).pages]
    except Exception as error:  # likewise
        raise _Unreadable(f"a damaged or protected PDF ({type(error).__name__}: {error})") from error
    return "\n\n".join(page.strip() for page in pages)


@contextmanager
def _silent_pypdf() -> Generator[None]:
    """It logs every oddity of a file, which Python prints where logging is not set up.

    Several threads may read at a time: whoever leaves takes off one level, so that the last one restores the first.
    """
    logger = logging.getLogger("pypdf")  # its modules log below this name
    with _pypdf_lock:
        _pypdf_levels.append(logger.level)
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _pypdf_lock:
            logger.setLevel(_pypdf_levels.pop())


_pypdf_lock: Final = threading.Lock()
_pypdf_levels: Final[list[int]] = []

_READERS: Final[dict[str, Callable[[bytes], str]]] = {
    ".md": _plain,
    ".txt": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
