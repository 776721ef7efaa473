"""Several brokers behind one issuer: each audience has one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Secret
from agentguard.ports import Issuer, ParentIssuer, waits


@dataclass(frozen=True, slots=True)
class Route:
    """One broker and what it issues for.

    Args:
        name: the broker's name in the configuration; its leases carry it, so that a later process finds their broker.
        issuer: the broker.
        audiences: exact audiences, or origins that stand for every audience below them; empty for all that no other
            route names.
    """

    name: str
    issuer: Issuer
    audiences: tuple[str, ...] = ()


class Routes:
    """Chooses the broker by the grant's audience; implements the port `ParentIssuer`.

    Args:
        routes: at least one; at most one of them without audiences.

    Raises:
        ConfigurationError: two routes have a name or an audience in common, or two have no audiences.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._by_name: Mapping[str, Route] = {route.name: route for route in routes}
        self._by_audience = {audience: route for route in routes for audience in route.audiences}
        open_ended = [route for route in routes if not route.audiences]
        named = sum(len(route.audiences) for route in routes)
        if not routes or len(self._by_name) < len(routes) or len(self._by_audience) < named or len(open_ended) > 1:
            raise ConfigurationError(
                "each broker under `tokens` has a name and audiences of its own, and one may be without audiences: "
                "it serves the tools that no other one names"
            )
        self._otherwise = open_ended[0] if open_ended else None
        issuers = [route.issuer for route in routes]
        self.suspends = any(getattr(issuer, "suspends", True) for issuer in issuers)
        self.waits = any(map(waits, issuers))
        self.remote = any(getattr(issuer, "remote", True) for issuer in issuers)
        self.details = any(getattr(issuer, "details", False) for issuer in issuers)

    @property
    def brokers(self) -> Collection[str]:
        """What the leases of its brokers call them."""
        return self._by_name.keys()

    def details_for(self, audience: str) -> bool:
        """Tell whether the broker of an audience asks for the steps of the intent too."""
        route = self._of(audience)
        return route is not None and bool(getattr(route.issuer, "details", False))

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Name the lease, by the broker of its audience.

        Raises:
            CredentialUnavailable: no broker issues for it.
        """
        route = self._route(grant)
        return replace(route.issuer.prepare(grant, now), issuer=route.name)

    def parent(self, grant: Grant) -> Grant | None:
        """The grant under which the broker hangs a task's leases, if it does."""
        route = self._route(grant)
        above = route.issuer.parent(grant) if isinstance(route.issuer, ParentIssuer) else None
        # A parent is for no audience of a tool, so its key names the broker.
        return replace(above, key=replace(above.key, resource=route.name)) if above is not None else None

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Have the broker issue it."""
        route = self._named(lease)
        return _named(await route.issuer.issue(grant, _own(route, lease), now), route)

    async def issue_under(self, parent: Issued, grant: Grant, lease: Lease, now: float) -> Issued:
        """Have the broker issue it under the task's parent."""
        route = self._named(lease)
        if not isinstance(route.issuer, ParentIssuer):
            raise CredentialUnavailable(f"broker {route.name!r} hangs nothing under a parent")
        return _named(await route.issuer.issue_under(parent, grant, _own(route, lease), now), route)

    async def renew(self, issued: Issued, until: float, now: float) -> Issued | None:
        """Have the broker prolong a parent."""
        route = self._named(issued.lease)
        if not isinstance(route.issuer, ParentIssuer):
            return None
        renewed = await route.issuer.renew(issued, until, now)
        return _named(renewed, route) if renewed is not None else None

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """Have the broker that issued it revoke it.

        Raises:
            CredentialUnavailable: no broker of that name is configured any more.
        """
        route = self._named(lease)
        return await route.issuer.revoke(_own(route, lease), handle)

    def close(self) -> None:
        """Close every broker."""
        for route in self._by_name.values():
            if (close := getattr(route.issuer, "close", None)) is not None:
                close()

    def after_fork(self) -> None:
        """Forget the parent process's connections, in every broker."""
        for route in self._by_name.values():
            if (forked := getattr(route.issuer, "after_fork", None)) is not None:
                forked()

    @property
    def keys(self) -> Any:
        """The public keys of the local issuer, or None if there is none among the brokers."""
        return next((keys for route in self._by_name.values() if (keys := getattr(route.issuer, "keys", None))), None)

    def revoked(self, iss: str, jti: str) -> bool:
        """Tell whether no local issuer vouches for a token."""
        checks = [check for route in self._by_name.values() if (check := getattr(route.issuer, "revoked", None))]
        return all(check(iss, jti) for check in checks)

    def _route(self, grant: Grant) -> Route:
        audience = grant.key.audience
        if grant.parent:
            return self._by_name[grant.key.resource]
        route = self._of(audience)
        if route is None:
            raise CredentialUnavailable(
                f"no broker issues for {audience}; add it to the audiences of one under `tokens` in agentguard.yaml"
            )
        return route

    def _of(self, audience: str) -> Route | None:
        parts = urlsplit(audience)
        return (
            self._by_audience.get(audience)
            or self._by_audience.get(f"{parts.scheme}://{parts.netloc}")
            or self._otherwise
        )

    def _named(self, lease: Lease) -> Route:
        route = self._by_name.get(lease.issuer)
        if route is None:
            raise CredentialUnavailable(
                f"no broker is named {lease.issuer!r} any more; put it back under `tokens` until its leases have ended"
            )
        return route

    def __repr__(self) -> str:
        return f"<Routes {', '.join(self._by_name)}>"


def _own(route: Route, lease: Lease) -> Lease:
    """The lease as its broker knows it."""
    own = getattr(route.issuer, "name", "")
    return replace(lease, issuer=own) if own else lease


def _named(issued: Issued, route: Route) -> Issued:
    return replace(issued, lease=replace(issued.lease, issuer=route.name))
