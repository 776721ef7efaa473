"""X.509-SVIDs (SPIFFE X509-SVID): verified with the bundle of their own trust domain; used as client certificate."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from agentguard.errors import IdentityUnavailable
from agentguard.identity.spiffe_id import spiffe_id_problem, trust_domain_of
from agentguard.identity.workload_api import Failure, chosen
from agentguard.model.lease import Secret

if TYPE_CHECKING:
    import ssl

    from spiffe import X509BundleSet, X509Svid
    from spiffe.workloadapi.x509_context import X509Context

_LONGEST_CHAIN: Final = 8  # certificates
_AUTHORITY: Final = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
_LEAF: Final = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Identity:
    """An X.509-SVID that was verified, for mutual TLS.

    Args:
        name: its SPIFFE ID.
        trust_domain: whose bundle verified it.
        begins_at, expires_at: seconds since the epoch.
        chain: the leaf and its intermediates, DER.
        roots: the trust domain's authorities, DER: what its SVIDs are verified with, never the system's trust store.
        key: the private key, PEM (PKCS #8).
    """

    name: str
    trust_domain: str
    begins_at: float
    expires_at: float
    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    key: Secret = field(repr=False)

    def client_cert(self, context: ssl.SSLContext) -> None:
        """Present this SVID on connections that are made with the context from now on (RFC 8446 section 4.4.2).

        A context keeps the SVID it was given: make a new one, from a new SVID, for a new client. The key touches the
        disk for a moment, because the standard library reads it from files only, and encrypted.

        Raises:
            IdentityUnavailable: the key does not belong to the certificate, or no temporary file can be made.
        """
        if not _loaded(context, self.chain, self.key):
            raise IdentityUnavailable(f"the SVID of {self.name} cannot be used for TLS")


def verified_x509(context: X509Context, wanted: str, now: float) -> X509Identity | Failure:
    """Return the one X.509-SVID of this workload, or why there is none (X509-SVID, section 5.2).

    Args:
        context: what the Workload API answered.
        wanted: the SPIFFE ID to take, or empty where the workload has one only.
        now: seconds since the epoch.
    """
    try:
        svid = chosen([(str(svid.spiffe_id), svid) for svid in context.x509_svids], wanted)
        return svid if isinstance(svid, Failure) else _verified(svid, context.x509_bundle_set, now)
    except Exception:  # deny by default: whatever breaks here breaks on what the agent sent
        return Failure("the X.509-SVID cannot be read; see the SPIFFE agent's log")


def _verified(svid: X509Svid, bundles: X509BundleSet, now: float) -> X509Identity | Failure:
    from spiffe import TrustDomain

    name = _uri(svid.leaf)
    if problem := spiffe_id_problem(name):
        return Failure(f"the X.509-SVID names no workload: {problem}")
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain(trust_domain_of(name)))
    authorities = list(bundle.x509_authorities) if bundle is not None else []
    path = _path(svid.cert_chain, authorities, now)
    if not path:
        return Failure(f"the X.509-SVID of {name} is not valid now under the bundle of {trust_domain_of(name)}")
    if svid.private_key.public_key() != svid.leaf.public_key():
        return Failure(f"the X.509-SVID of {name} came with the key of another")
    return X509Identity(
        name=name,
        trust_domain=trust_domain_of(name),
        begins_at=svid.leaf.not_valid_before_utc.timestamp(),
        expires_at=min(certificate.not_valid_after_utc.timestamp() for certificate in path),
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in svid.cert_chain),
        roots=tuple(certificate.public_bytes(Encoding.DER) for certificate in authorities),
        key=Secret(svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()),
    )


def _uri(leaf: x509.Certificate) -> str:
    # As it is written: the client library would fold capitals.
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 else ""


def _path(
    chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now: float
) -> Sequence[x509.Certificate]:
    if not authorities or len(chain) > _LONGEST_CHAIN:
        return ()
    policy = PolicyBuilder().store(Store(list(authorities))).time(datetime.fromtimestamp(now, UTC))
    verifier = policy.extension_policies(ca_policy=_AUTHORITY, ee_policy=_LEAF).build_client_verifier()
    try:
        return verifier.verify(chain[0], list(chain[1:])).chain
    except VerificationError:
        return ()


def _loaded(context: ssl.SSLContext, chain: Sequence[bytes], key: Secret) -> bool:
    try:
        password = secrets.token_bytes(32).hex().encode()
        private = serialization.load_pem_private_key(key.reveal().encode(), None)
        encrypted = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
        certificates = [x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in chain]
        with tempfile.NamedTemporaryFile(prefix="agentguard-") as file:
            file.write(b"".join((*certificates, encrypted)))
            file.flush()
            context.load_cert_chain(file.name, password=password)
    except Exception:  # its frames hold the key, so it goes no further
        return False
    return True
