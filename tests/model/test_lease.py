"""Lease keys: equal ones are one key, in this process and after a pickle; and a secret shows itself nowhere."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from msgspec.structs import astuple, replace

from agentguard.model.credential import Credential, Issued
from agentguard.model.lease import Lease, LeaseKey, Secret

KEY = LeaseKey("", "user:alice", "t", ("user:alice", "bot"), "pay", "https://api.test", ("pay",), "account/1")


def test_equal_keys_are_one_key_and_others_are_not() -> None:
    again = replace(KEY)

    assert (again, hash(again), {KEY: 1}[again]) == (KEY, hash(KEY), 1)
    assert replace(KEY, resource="account/2") not in {KEY: 1}
    assert "_hash" not in repr(KEY)


def test_key_is_the_same_after_a_pickle_whose_reader_hashes_otherwise() -> None:
    hash(KEY)
    program = (
        f"import pickle; key = pickle.loads({pickle.dumps(KEY)!r}); print({{key: 1}}[type(key)(*{astuple(KEY)!r})])"
    )

    for seed in ("1", "2"):
        shown = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        assert shown.stdout == b"1\n"


@pytest.mark.control("6 a credential is never seen")
def test_no_attribute_of_a_secret_is_its_text() -> None:
    secret = Secret("canary-of-a-secret")

    shown = [repr(secret), str(secret), f"{secret!s:>30}", *(repr(getattr(secret, name)) for name in Secret.__slots__)]

    assert not any("canary" in text for text in shown)
    assert all(getattr(secret, name) != "canary-of-a-secret" for name in Secret.__slots__)
    assert secret.reveal() == "canary-of-a-secret"


def test_credential_that_was_renewed_proves_itself_by_its_own_key() -> None:
    class Key:
        def __init__(self, name: str) -> None:
            self.name = name

        def proof(self, method: str, url: str, token: str = "", nonce: str = "") -> str:
            return f"{self.name} for {token}"

    def issued(name: str) -> Issued:
        lease = Lease(id=name, issuer="as", key=KEY, task="t", issued_at=0, expires_at=30)
        return Issued(lease, Secret(f"token {name}"), prover=Key(name))

    credential = Credential(issued("one"))
    credential.take(issued("two"))
    assert credential.proof("GET", "https://api.test") == "two for token two"
