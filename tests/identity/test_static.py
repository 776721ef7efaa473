from __future__ import annotations

import math

import pytest

from agentguard._drive import drive
from agentguard.errors import IdentityUnavailable
from agentguard.identity.static import StaticIdentity
from agentguard.model.principal import Identity, Proof
from agentguard.ports import Authenticator, IdentityTokens


def test_a_static_identity_is_named_in_process_and_never_attested() -> None:
    identity = StaticIdentity()

    assert isinstance(identity, Authenticator)
    assert isinstance(identity, IdentityTokens)
    assert drive(identity.identify(0.0)) == Identity("", Proof.IN_PROCESS, math.inf)


@pytest.mark.control("identity a named workload has no token")
def test_a_static_identity_has_no_token_and_says_what_to_configure() -> None:
    with pytest.raises(IdentityUnavailable, match=r"jwt_file.*spiffe"):
        drive(StaticIdentity().token("https://as.bank.test", 0.0))
