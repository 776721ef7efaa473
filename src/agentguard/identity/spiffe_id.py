"""SPIFFE IDs (SPIFFE-ID, section 2), `spiffe://bank.test/support-bot`, in the one form that all compare alike."""

from __future__ import annotations

import re
from typing import Final

MAX_ID: Final = 2048  # bytes
MAX_TRUST_DOMAIN: Final = 255
_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")


def spiffe_id_problem(text: object) -> str:
    """Return what is wrong with a workload's SPIFFE ID and what to write instead, or "" if it is one.

    Nothing is normalised: an ID in capitals, or with an escape, a port or a trailing slash, is another ID or none. The
    ID of a trust domain itself, without a path, names no workload (X509-SVID, section 5.2).
    """
    if not isinstance(text, str):
        return "a SPIFFE ID is text, such as spiffe://bank.test/support-bot"
    if len(text) > MAX_ID:
        return f"a SPIFFE ID has at most {MAX_ID} bytes"
    if not text.startswith(_SCHEME):
        return "a SPIFFE ID begins with spiffe://, in lower case"
    domain, slash, path = text[len(_SCHEME) :].partition("/")
    return _domain_problem(domain) or _path_problem(slash, path)


def trust_domain_of(spiffe_id: str) -> str:
    """Return the trust domain of a SPIFFE ID without problems: `bank.test`."""
    return spiffe_id[len(_SCHEME) :].partition("/")[0]


def _domain_problem(domain: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(domain):
        return "its trust domain takes a-z, 0-9 and . _ - only: no user, port, capitals or escapes"
    return f"its trust domain has at most {MAX_TRUST_DOMAIN} bytes" if len(domain) > MAX_TRUST_DOMAIN else ""


def _path_problem(slash: str, path: str) -> str:
    if not slash:
        return "it names a trust domain and no workload; write a path, such as spiffe://bank.test/support-bot"
    for segment in path.split("/"):
        if not segment:
            return "its path has an empty segment, or a slash at the end"
        if segment in (".", ".."):
            return "its path has a segment . or .."
        if not _SEGMENT.fullmatch(segment):
            return "its path takes A-Z, a-z, 0-9 and . _ - only: no query, fragment or escapes"
    return ""
