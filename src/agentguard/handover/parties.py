"""Who hands tasks on to whom: this guard's issuer and key, its trust domain, and the peers it accepts tasks from."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from agentguard._jwt import MAX_LEEWAY
from agentguard.errors import ConfigurationError
from agentguard.handover.redemptions import MemoryRedemptions
from agentguard.model.principal import checked_name
from agentguard.ports import Redemptions

if TYPE_CHECKING:
    from agentguard._jwt import Keys
    from agentguard.keys import Signers, SigningKey

MAX_WAIT: Final = 300  # seconds in which a handover may be redeemed


@runtime_checkable
class RemoteKeys(Protocol):
    """Keys that are fetched when a token needs them."""

    def keys_for(self, token: str) -> Coroutine[Any, Any, Keys]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handovers:
    """How a guard hands tasks on, and from whom it takes them. Passed as `Guard(handovers=...)`.

    Args:
        issuer: the `iss` of the handovers made here.
        trust_domain: the `aud`, the same text at all peers; a handover never leaves it.
        key: signs; None for a guard that only takes tasks.
        peers: public keys by issuer, or a cache of its published ones (`Jwks`); a handover of any other issuer is
            refused. Leave one's own issuer out, unless processes that share it hand tasks to each other.
        redemptions: remembers what was redeemed. In memory by default: then each handover is to be sent to one process
            only, as another one cannot know that it was used.
        leeway: seconds that the clocks of peers may differ.

    Raises:
        ConfigurationError: a name is wrong, or the leeway is out of range.
    """

    issuer: str
    trust_domain: str
    key: SigningKey | Signers | None = field(default=None, repr=False)
    peers: Mapping[str, Keys | RemoteKeys] = field(default_factory=dict, repr=False)
    redemptions: Redemptions = field(default_factory=MemoryRedemptions, repr=False)
    leeway: int = 10

    def __post_init__(self) -> None:
        checked_name(self.issuer, "issuer")
        checked_name(self.trust_domain, "trust domain")
        for peer in self.peers:
            checked_name(peer, "peer")
        if type(self.leeway) is not int or not 0 <= self.leeway <= MAX_LEEWAY:
            raise ConfigurationError(f"leeway {self.leeway!r}: write whole seconds from 0 to {MAX_LEEWAY}")
