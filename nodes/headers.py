"""What may stand in a mail header (pure)."""

from __future__ import annotations

import re
from email.errors import MessageError
from email.headerregistry import AddressHeader, Group, HeaderRegistry
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def header_problem(text: str) -> str | None:
    """Why a text cannot stand in a header, or None when it can.

    Line ends of any kind would start a header of their own, and so would an encoded word that holds one
    (RFC 2047; CVE-2024-6923): no person writes `=?`, so it is refused altogether.

    >>> header_problem("Hello") is None, header_problem("Hello\\nBcc: eve@example.com")
    (True, 'holds a line end or another control character')
    """
    if _CONTROL.search(text):
        return "holds a line end or another control character"
    return "holds '=?', which begins an encoded word" if "=?" in text else None


def address_problem(text: str) -> str | None:
    """Why a text is not exactly one e-mail address, or None when it is. Only ASCII addresses count.

    >>> address_problem("Ada <ada@example.com>") is None
    True
    >>> address_problem("ada at example")
    "'ada at example' lacks an @"
    """
    if problem := header_problem(text):
        return f"{text!r} {problem}"
    if "@" not in text:
        return f"{text!r} lacks an @"
    try:
        header = HeaderRegistry()("To", text)
        groups: tuple[Group, ...] = header.groups if isinstance(header, AddressHeader) else ()
        addresses = [address for group in groups for address in group.addresses]
    except (MessageError, ValueError, IndexError, AttributeError) as error:  # what the parser trips over
        return f"{text!r} cannot be parsed: {error}"
    if header.defects or len(addresses) != 1 or any(group.display_name is not None for group in groups):
        return f"{text!r} is not exactly one address"
    if not (addresses[0].username and addresses[0].domain):
        return f"{text!r} is incomplete"
    return None if addresses[0].addr_spec.isascii() else f"{text!r} has characters that only a name may have"
