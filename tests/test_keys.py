from __future__ import annotations

import copy
import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, JWKRegistry, OKPKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from agentguard import _jwt
from agentguard._jwk import members_of, public_key
from agentguard.errors import ConfigurationError
from agentguard.keys import KeySet, SigningKey
from agentguard.keys.signing import _signer

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
SEC1 = serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()


def written(path: Path, private: Any, form: Any = PKCS8, encryption: Any = PLAIN, mode: int = 0o600) -> Path:
    path.write_bytes(private.private_bytes(PEM, form, encryption))
    path.chmod(mode)
    return path


def public_pem(private: Any) -> bytes:
    data: bytes = private.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


@pytest.mark.parametrize(("algorithm", "kind"), [("ES256", ECKey), ("EdDSA", OKPKey)])
def test_the_kid_is_the_thumbprint_that_joserfc_computes(algorithm: str, kind: Any) -> None:
    key = SigningKey.generate(algorithm)

    assert key.kid == kind.import_key(key.public_jwk()).thumbprint()


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_signatures_verify_with_pyjwt(algorithm: str) -> None:
    key = SigningKey.generate(algorithm)
    verifier = jwt.get_algorithm_by_name(algorithm)

    for n in range(50):  # r and s with leading zeros come up among these
        signature = key.sign(str(n).encode())
        assert len(signature) == 64
        assert verifier.verify(str(n).encode(), key.public.key, signature)


class Fixed:
    """A private key that answers everything with one signature."""

    def __init__(self, r: int, s: int) -> None:
        self._der = encode_dss_signature(r, s)

    def sign(self, data: bytes, algorithm: Any) -> bytes:
        return self._der


NUMBERS = st.integers(1, 256).flatmap(lambda bits: st.integers(2 ** (bits - 1), 2**bits - 1))


@given(NUMBERS, NUMBERS)
@example(1, 2**256 - 1)
@example(2**255, 2**255 - 1)
@example(2**247, 2**248 - 1)
def test_signature_is_both_numbers_of_the_pair_in_32_bytes_each(r: int, s: int) -> None:
    private: Any = Fixed(r, s)

    assert _signer(private)(b"") == r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "none", "es256", "Ed25519", "", None])
def test_other_signing_algorithms_are_refused(algorithm: Any) -> None:
    with pytest.raises(ConfigurationError, match="write 'ES256' or 'EdDSA'"):
        SigningKey.generate(algorithm)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_written_key_is_private_and_reads_back(algorithm: str, tmp_path: Path) -> None:
    key, path = SigningKey.generate(algorithm), tmp_path / "key.pem"

    key.write_pem_file(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.from_pem_file(path).kid == key.kid


def test_a_key_is_never_written_over_a_file_or_through_a_link(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "key.pem"
    path.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigurationError, match="exists already"):
        key.write_pem_file(path)
    with pytest.raises(ConfigurationError, match="exists already"):
        key.write_pem_file(tmp_path / "link")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        key.write_pem_file(tmp_path / "missing" / "key.pem")
    assert path.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_sec1_and_pkcs8_files_are_read(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())

    sec1 = SigningKey.from_pem_file(written(tmp_path / "sec1", private, SEC1))
    pkcs8 = SigningKey.from_pem_file(written(tmp_path / "pkcs8", private))

    assert sec1.kid == pkcs8.kid
    assert sec1.algorithm == "ES256"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o610, 0o777])
def test_a_key_file_open_to_others_is_refused_also_behind_a_link(mode: int, tmp_path: Path) -> None:
    path = written(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()), mode=mode)
    (tmp_path / "link").symlink_to(path)

    for name in (path, tmp_path / "link"):
        with pytest.raises(ConfigurationError, match="chmod 600"):
            SigningKey.from_pem_file(name)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            KeySet.from_file(name)


@pytest.mark.parametrize(
    "private",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["RSA", "P-384", "secp256k1", "Ed448"],
)
def test_a_key_of_another_kind_does_not_sign(private: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="P-256"):
        SigningKey.from_pem_file(written(tmp_path / "key.pem", private))


def test_what_is_no_key_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "junk").write_text("-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n")
    (tmp_path / "junk").chmod(0o600)
    os.mkfifo(tmp_path / "fifo", 0o600)
    private = ec.generate_private_key(ec.SECP256R1())
    written(tmp_path / "locked", private, encryption=serialization.BestAvailableEncryption(b"pass"))
    expected = {
        "missing": "No such file",
        "empty": "empty",
        "junk": "no private key in PEM",
        "fifo": "no regular file",
        "locked": "encrypted",
        ".": "no regular file",
    }

    for name, why in expected.items():
        with pytest.raises(ConfigurationError, match=why) as caught:
            SigningKey.from_pem_file(tmp_path / name)
        assert "canary" not in str(caught.value)
        assert caught.value.__context__ is None


def test_the_private_part_shows_nowhere() -> None:
    key = SigningKey.generate()

    assert set(key.public_jwk()) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert repr(key) == f"<SigningKey ES256 {key.kid}>"
    for leak in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            leak(key)


def test_a_key_set_finds_keys_by_kid() -> None:
    old, new = SigningKey.generate(), SigningKey.generate("EdDSA")
    keys = KeySet.of(new, old)

    assert keys.find(old.kid) == old.public
    assert keys.find("other") is None
    assert len(keys) == 2


def test_a_published_set_reads_back() -> None:
    keys = KeySet.of(SigningKey.generate(), SigningKey.generate("EdDSA"))

    assert KeySet.from_jwks(json.loads(json.dumps(keys.jwks()))).jwks() == keys.jwks()


def of_curve(curve: ec.EllipticCurve, number: int) -> ec.EllipticCurvePublicKey:
    return ec.derive_private_key(number, curve).public_key()


# Among so many keys there are coordinates that begin with zeros.
PUBLIC: list[Any] = [
    *(of_curve(curve, number) for curve in (ec.SECP256R1(), ec.SECP384R1()) for number in range(1, 600)),
    *(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)).public_key() for number in range(8)),
    rsa.generate_private_key(65537, 2048).public_key(), rsa.generate_private_key(3, 2048).public_key(),
]  # fmt: skip


def test_a_key_is_written_as_a_jwk_as_others_write_it() -> None:
    kinds: dict[str, Any] = {"EC": ECAlgorithm, "OKP": OKPAlgorithm, "RSA": RSAAlgorithm}
    for key in PUBLIC:
        ours: dict[str, Any] = {**members_of(key)}
        theirs: Any = kinds[ours["kty"]].to_jwk(key, as_dict=True)
        assert ours == {name: theirs[name] for name in ours}
        assert JWKRegistry.import_key(ours).thumbprint() == public_key(key).kid


def test_algorithms_that_are_known_are_those_that_can_be_verified() -> None:
    assert frozenset(_jwt._jws().get_algorithms()) == _jwt._ALGORITHMS


def test_a_jwk_without_alg_gets_the_one_of_its_kind_and_ed25519_keeps_its_name() -> None:
    p256, ed = SigningKey.generate().public_jwk(), SigningKey.generate("EdDSA").public_jwk()
    del p256["alg"]
    keys = KeySet.from_jwks({"keys": [{**p256, "kid": "a"}, {**ed, "kid": "b", "alg": "Ed25519"}]})

    assert [key.algorithm for kid in "ab" if (key := keys.find(kid))] == ["ES256", "Ed25519"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "private or symmetric"),
        ({"d": "AAAA"}, "private or symmetric"),
        ({"use": "enc"}, "not for signatures"),
        ({"key_ops": ["sign"]}, "not for signatures"),
        ({"key_ops": 1}, "not for signatures"),
        ({"alg": "HS256"}, "alg does not fit"),
        ({"alg": "none"}, "alg does not fit"),
        ({"alg": "ES384"}, "alg does not fit"),
        ({"alg": "RS256"}, "alg does not fit"),
        ({"alg": None}, "alg does not fit"),
        ({"alg": ["ES256"]}, "alg does not fit"),
        ({"crv": "P-521"}, "alg does not fit"),
        ({"kty": "RSA"}, "alg does not fit"),
        ({"kty": ["EC"]}, "alg does not fit"),
        ({"x": "AAAA"}, "no key of its kind"),
        ({"y": 1}, "no key of its kind"),
        ({"kid": ""}, "kid"),
        ({"kid": 1}, "kid"),
        ({"kid": "k" * 257}, "kid"),
    ],
)
def test_an_unusable_jwk_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        KeySet.from_jwks({"keys": [{**SigningKey.generate().public_jwk(), **changes}]})


@pytest.mark.parametrize("jwks", [None, [], {}, {"keys": []}, {"keys": {}}, {"keys": [1]}, {"keys": ["a"]}])
def test_what_is_no_jwk_set_is_refused(jwks: Any) -> None:
    with pytest.raises(ConfigurationError):
        KeySet.from_jwks(jwks)


def test_a_kid_names_one_key() -> None:
    one, two = SigningKey.generate().public_jwk(), SigningKey.generate().public_jwk()

    with pytest.raises(ConfigurationError, match="two keys"):
        KeySet.from_jwks({"keys": [one, {**two, "kid": one["kid"]}]})


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 1024)  # what must be refused
    members = {**jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "r"}
    (tmp_path / "rsa.pem").write_bytes(public_pem(private))

    with pytest.raises(ConfigurationError, match="2048"):
        KeySet.from_jwks({"keys": [members]})
    with pytest.raises(ConfigurationError, match="2048"):
        KeySet.from_file(tmp_path / "rsa.pem")


def test_a_file_of_keys_is_a_jwk_set_or_a_pem_key(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    key = SigningKey(private)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key.public_jwk()]}))
    (tmp_path / "public.pem").write_bytes(public_pem(private))
    key.write_pem_file(tmp_path / "private.pem")

    for name in ("jwks.json", "public.pem", "private.pem"):
        assert KeySet.from_file(tmp_path / name).find(key.kid) == key.public


def test_a_signing_key_that_is_not_there_is_told_how_to_make(tmp_path: Path) -> None:
    missing = tmp_path / "tokens.pem"
    with pytest.raises(ConfigurationError) as wrong:
        SigningKey.from_pem_file(missing)
    assert str(wrong.value).endswith(f"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {missing}")


def test_a_file_without_usable_keys_is_refused(tmp_path: Path) -> None:
    jwk = json.dumps(SigningKey.generate().public_jwk())
    files = {
        "twice": f'{{"keys": [{jwk}], "keys": [{jwk}]}}'.encode(),
        "utf16": json.dumps({"keys": []}).encode("utf-16"),
        "junk": b"hello",
        "p521": public_pem(ec.generate_private_key(ec.SECP521R1())),
        "empty": b"",
        "huge": b"{" + b" " * (1 << 20) + b"}",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigurationError):
            KeySet.from_file(tmp_path / name)
