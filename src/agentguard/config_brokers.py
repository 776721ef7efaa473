"""Makes what `agentguard.yaml` says about identity, tokens and state; each room is imported only where it is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentguard.config_fields import SecretSource
from agentguard.config_secrets import Noted, kept, secret_key, text_of, with_psycopg
from agentguard.config_tokens import Broker, State, Tokens, Workload
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Placement, Secret

if TYPE_CHECKING:
    from agentguard._http import Http
    from agentguard.credentials.oauth import AuthorizationServer, PrivateKeyJwt, WorkloadAssertion
    from agentguard.credentials.openbao import Database, StaticSecret
    from agentguard.handover import Handovers
    from agentguard.intent.document import Path as Where
    from agentguard.intent.document import Problems
    from agentguard.ports import (
        Approvals,
        Authenticator,
        Budgets,
        Issuer,
        Ledger,
        ParkedTasks,
        Redemptions,
        Suspensions,
    )

T = TypeVar("T")
_RULES: Final = (
    "max_lifetime", "default_lifetime", "dpop", "target", "targets", "subject", "details", "enrichment", "introspect",
    "revocable", "leeway",
)  # fmt: skip


class Brokers:
    """Makes the brokers of one configuration; they share one HTTP client.

    Args:
        http: how servers are reached, by keyword of `Http`.
        problems: receives the mistakes.
    """

    identity: Authenticator | None = None  # what proves this workload; its tokens authenticate clients and log in

    def __init__(self, http: Mapping[str, Any], problems: Problems) -> None:
        self._settings, self._problems = http, problems
        self._http: Http | None = None
        self._where: Where = ()

    def http(self) -> Http:
        """The one client, made when the first broker needs it."""
        if self._http is None:
            from agentguard._http import Http

            self._http = Http(**self._settings)
        return self._http

    def issuer(self, tokens: Tokens) -> Issuer | None:
        """All brokers behind one issuer; a single local one stands for itself."""
        from agentguard.credentials.routes import Route, Routes

        made: list[Route] = []
        for broker in tokens.brokers:
            one = kept(self._problems, broker.where, partial(self._made, broker))
            if one is not None:
                made.append(Route(broker.kind, one, broker.audiences))
        if len(made) < len(tokens.brokers) or not made:
            return None
        if not tokens.outside and not made[0].audiences:
            return made[0].issuer
        return kept(self._problems, ("tokens",), lambda: Routes(made))

    def _made(self, broker: Broker) -> Issuer | None:
        make: Mapping[str, Callable[[dict[str, Any]], Issuer | None]] = {
            "local": self._local, "exchange": self._exchange, "client_credentials": self._client_credentials,
            "id_jag": self._id_jag, "openbao": self._openbao, "postgres": self._postgres,
        }  # fmt: skip
        self._where = broker.where
        return make[broker.kind](dict(broker.said))

    def _at(self, key: str, make: Callable[[], T]) -> T:
        """Make a part; its mistake is noted at its own place."""
        made = kept(self._problems, (*self._where, key), make)
        if made is None:
            raise Noted
        return made

    # --- each broker ------------------------------------------------------------------------------------------

    def _local(self, said: dict[str, Any]) -> Issuer | None:
        from agentguard.credentials.local import LocalIssuer
        from agentguard.keys import KeyRing, SigningKey

        if ("key" in said) == ("keys" in said):
            raise ConfigurationError("write key: FILE, or keys: FOLDER for keys that rotate (agentguard keys rotate)")
        key: SigningKey | KeyRing
        if "key" in said:
            key = self._at("key", partial(SigningKey.from_pem_file, said["key"]))
        else:
            key = self._at("keys", partial(KeyRing.from_folder, said["keys"]))
        return self._at("issuer", partial(LocalIssuer, key, said.get("issuer", "agentguard")))

    def _server(self, said: dict[str, Any]) -> tuple[AuthorizationServer, PrivateKeyJwt | WorkloadAssertion]:
        from agentguard.credentials.oauth import AuthorizationServer, ServerMetadata

        client, issuer = self._client(said), said["issuer"]
        metadata = ServerMetadata(issuer=issuer, **said["metadata"]) if "metadata" in said else None
        return AuthorizationServer(issuer, client, self.http(), metadata=metadata), client

    def client(self, said: dict[str, Any], where: Where) -> PrivateKeyJwt | WorkloadAssertion:
        """What proves this client to the server at `issuer`; `where` is its place in the file."""
        self._where = where
        return self._client(said)

    def _client(self, said: dict[str, Any]) -> PrivateKeyJwt | WorkloadAssertion:
        from agentguard.credentials.oauth import PrivateKeyJwt, WorkloadAssertion
        from agentguard.keys import SigningKey

        if ("key" in said) == ("assertion" in said):
            raise ConfigurationError("a client proves itself with key: FILE or with assertion: identity; write one")
        if "key" in said:
            key = self._at("key", partial(SigningKey.from_pem_file, said["key"]))
            legacy = said.get("legacy_aud", "")
            return PrivateKeyJwt(said["client_id"], key, said["issuer"], kid=said.get("kid", ""), legacy_aud=legacy)
        kind = "spiffe" if type(self.identity).__name__ == "SpiffeIdentity" else "jwt"
        return WorkloadAssertion(said["client_id"], self._tokens("assertion"), said["issuer"], kind=kind)  # type: ignore[arg-type]  # one of the two

    def _tokens(self, what: str) -> Any:
        if self.identity is None or not hasattr(self.identity, "token"):
            raise ConfigurationError(
                f"{what} needs an identity with tokens: write identity: {{spiffe: ...}} or {{jwt_file: ...}}"
            )
        return self.identity

    def _actor(self, said: dict[str, Any], client: PrivateKeyJwt | WorkloadAssertion) -> Any:
        from agentguard.credentials.oauth import PrivateKeyJwt, SignedActor, WorkloadActor

        if said.get("actor", "signed" if "key" in said else "identity") == "identity":
            return WorkloadActor(self._tokens("actor: identity"), said["issuer"])
        if not isinstance(client, PrivateKeyJwt):
            raise ConfigurationError("actor: signed needs the client's key; write actor: identity")
        return SignedActor(client)

    def _exchange(self, said: dict[str, Any]) -> Issuer:
        from agentguard.credentials.oauth import TokenExchange

        server, client = self._server(said)
        actor = self._actor(said, client)
        return TokenExchange(server, actor, _rules(said), own_subject=said.get("own_subject", ""))

    def _client_credentials(self, said: dict[str, Any]) -> Issuer:
        from agentguard.credentials.oauth import ClientCredentials

        return ClientCredentials(self._server(said)[0], _rules(said), subject=said.get("own_subject", ""))

    def _id_jag(self, said: dict[str, Any]) -> Issuer:
        from agentguard.credentials.oauth import IdJag

        provider, client = self._server(said["provider"])
        actor = self._actor({**said["provider"], "actor": said.get("actor", "signed")}, client)
        return IdJag(provider, self._server(said)[0], actor, _rules(said))

    def _openbao(self, said: dict[str, Any]) -> Issuer:
        from agentguard.credentials.openbao import Database, JwtLogin, OpenBaoIssuer

        login = JwtLogin(tokens=self._tokens("openbao login"), **said["login"])
        targets: list[Database | StaticSecret] = [
            Database(audience=audience, **one) for audience, one in said.get("databases", {}).items()
        ]
        targets += [_static(audience, one) for audience, one in said.get("secrets", {}).items()]
        options = {key: said[key] for key in ("ttl", "namespace") if key in said}
        return OpenBaoIssuer(self.http(), said["address"], login=login, targets=targets, **options)

    def _postgres(self, said: dict[str, Any]) -> Issuer:
        with_psycopg()
        from agentguard.credentials.postgres import PostgresRoles

        return PostgresRoles(_read_anew(said.pop("dsn")), **said)


def _rules(said: Mapping[str, Any]) -> Any:
    from agentguard.credentials.oauth import TokenRules

    return TokenRules(**{key: said[key] for key in _RULES if key in said})


_PUT: Final = {"header": Placement.HEADER, "query": Placement.QUERY, "basic": Placement.BASIC, "login": Placement.LOGIN}


def _static(audience: str, said: Mapping[str, Any]) -> StaticSecret:
    from agentguard.credentials.openbao import StaticSecret

    ways = [way for way in _PUT if way in said]
    plain = {key: value for key, value in said.items() if key not in _PUT}
    if len(ways) > 1:
        raise ConfigurationError(f"the secret for {audience} goes to one place; write one of {', '.join(_PUT)}")
    if not ways:
        placement = Placement.BASIC if "user_field" in said else Placement.BEARER
        return StaticSecret(audience=audience, placement=placement, **plain)
    named = {"name": said[ways[0]]} if ways[0] in ("header", "query") else {"user": said[ways[0]]}
    return StaticSecret(audience=audience, placement=_PUT[ways[0]], **named, **plain)


def _read_anew(source: SecretSource) -> Callable[[], str]:
    """What reads a secret whenever it is needed, also after the process changed its working directory."""
    text_of(source)  # a missing one is a mistake of the file, said now
    return partial(text_of, replace(source, file=source.file.absolute()) if source.file else source)


# --- identity, state, keys ---------------------------------------------------------------------------------------


def authenticator(workload: Workload, brokers: Callable[[], Http]) -> Authenticator | None:
    """Make what proves the workload; None where it is only named."""
    if workload.kind == "spiffe":
        from agentguard.identity.spiffe import SpiffeIdentity

        return SpiffeIdentity(**workload.said)
    if workload.kind == "jwt_file":
        from agentguard.identity.jwt_file import JwtFileIdentity

        said = dict(workload.said)
        keys = keys_of(said.pop("keys", None), said.pop("jwks", ""), brokers)
        return JwtFileIdentity(said.pop("path"), said.pop("issuer"), said.pop("audience"), keys, **said)
    return None


def keys_of(file: Path | None, jwks: str, http: Callable[[], Http]) -> Any:
    """The issuer's public keys: of a file, or fetched and cached.

    Raises:
        ConfigurationError: neither or both are given, or the file holds none.
    """
    if (file is None) == (not jwks):
        raise ConfigurationError("write where the issuer's keys are: keys: FILE or jwks: URL, one of them")
    if file is not None:
        from agentguard.keys import KeySet

        return KeySet.from_file(file)
    from agentguard._jwks import Jwks

    return Jwks(http(), jwks)


@dataclass(frozen=True, slots=True)
class Stores:
    """What the processes that share a state have in common; closed in this order."""

    budgets: Budgets
    suspensions: Suspensions
    ledger: Ledger
    redemptions: Redemptions
    approvals: Approvals
    parked: ParkedTasks
    closing: tuple[Any, ...] = ()


def stores_of(state: State) -> Stores | None:
    """Open the state."""
    key = secret_key(state.key)
    if key is None:
        return None
    if state.dsn is not None:
        return _postgres_stores(state.dsn, key, state.options)
    from agentguard.state.approvals_sqlite import SqliteApprovals
    from agentguard.state.budgets_sqlite import SqliteBudgets
    from agentguard.state.parked_sqlite import SqliteParkedTasks
    from agentguard.state.redemptions_sqlite import SqliteRedemptions
    from agentguard.state.sqlite import SqliteLedger
    from agentguard.state.suspensions_sqlite import SqliteSuspensions

    file = state.file or Path()
    ledger = SqliteLedger(file, key)  # first: it says whether the file may be used
    redemptions = SqliteRedemptions(file)
    return Stores(
        SqliteBudgets(file), SqliteSuspensions(file), ledger, redemptions, SqliteApprovals(file),
        SqliteParkedTasks(file, key), (redemptions,),
    )  # fmt: skip


def _postgres_stores(dsn: SecretSource, key: Secret, options: Mapping[str, Any]) -> Stores:
    with_psycopg()
    from agentguard.state.approvals_postgres import PostgresApprovals
    from agentguard.state.budgets_postgres import PostgresBudgets
    from agentguard.state.ledger_postgres import PostgresLedger
    from agentguard.state.parked_postgres import PostgresParkedTasks
    from agentguard.state.postgres import PostgresStore
    from agentguard.state.redemptions_postgres import PostgresRedemptions
    from agentguard.state.suspensions_postgres import PostgresSuspensions

    store = PostgresStore(_read_anew(dsn), **options)
    return Stores(
        PostgresBudgets(store), PostgresSuspensions(store), PostgresLedger(store, key), PostgresRedemptions(store),
        PostgresApprovals(store), PostgresParkedTasks(store, key), (store,),
    )  # fmt: skip


def handovers_of(said: Mapping[str, Any], http: Callable[[], Http]) -> Handovers | None:
    """Make what says who hands tasks on to whom; it still knows redemptions of its own only."""
    if not said:
        return None
    from agentguard.handover import Handovers
    from agentguard.keys import KeyRing, SigningKey

    if "key" in said and "keys" in said:
        raise ConfigurationError("write key: FILE, or keys: FOLDER for keys that rotate (agentguard keys rotate)")
    key: SigningKey | KeyRing | None = SigningKey.from_pem_file(said["key"]) if "key" in said else None
    key = KeyRing.from_folder(said["keys"]) if "keys" in said else key
    peers = {name: keys_of(one.get("keys"), one.get("jwks", ""), http) for name, one in said.get("peers", {}).items()}
    options: dict[str, Any] = {name: said[name] for name in ("issuer", "trust_domain", "leeway") if name in said}
    return Handovers(key=key, peers=peers, **options)
