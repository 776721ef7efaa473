"""The metadata of an AuthZEN decision point (Authorization API 1.0 section 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from agentguard._http import checked_url
from agentguard.errors import ConfigurationError

_WELL_KNOWN: Final = "/.well-known/authzen-configuration"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where questions go; `evaluations` is empty where there are no batches."""

    evaluation: str
    evaluations: str = ""


def default_endpoints(url: str) -> Endpoints:
    """The paths that decision points have unless they say otherwise."""
    base = url.rstrip("/")
    return Endpoints(f"{base}/access/v1/evaluation", f"{base}/access/v1/evaluations")


def metadata_url(url: str) -> str:
    """Where the metadata is; a path comes after the well-known part, as in RFC 8615."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{_WELL_KNOWN}{parts.path.rstrip('/')}"


def endpoints_in(metadata: Mapping[str, Any], url: str, networks: Sequence[str]) -> Endpoints | str:
    """Return the endpoints that metadata names, or what is wrong with it.

    INVARIANT: `policy_decision_point` is the identifier that was configured, to the letter, so that nobody's metadata
    is taken for another's; and questions, which may carry a token, go to no other origin.
    """
    if metadata.get("policy_decision_point") != url:
        return "its metadata is of another decision point: policy_decision_point is not the URL as configured"
    found = []
    for name in ("access_evaluation_endpoint", "access_evaluations_endpoint"):
        value = metadata.get(name, "")
        if value == "" and name == "access_evaluations_endpoint":
            found.append("")
        elif not isinstance(value, str) or not _is_near(value, url, networks):
            return f"its metadata has no usable {name} at its own origin"
        else:
            found.append(value)
    return Endpoints(*found)


def _is_near(value: str, url: str, networks: Sequence[str]) -> bool:
    try:
        checked_url(value, what="endpoint", networks=networks)
    except ConfigurationError:
        return False
    theirs, ours = urlsplit(value), urlsplit(url)
    return (theirs.scheme, theirs.netloc) == (ours.scheme, ours.netloc)
