"""A SPIFFE agent in this process, which answers as a test says: several identities, none, wrong ones, errors, silence.

It cannot attest its caller, so what it proves is the protocol.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from spiffe._proto import workload_pb2 as proto
from spiffe._proto import workload_pb2_grpc as rpc

from tests.services.trust_domain import TrustDomain

NAME = "spiffe://bank.test/support-bot"


class Agent(rpc.SpiffeWorkloadAPIServicer):
    """Serves for the time of a `with`; its public fields may be changed while it does.

    Args:
        folder: where its socket is made.
    """

    def __init__(self, folder: Path) -> None:
        self.socket = f"unix://{folder / 'agent.sock'}"
        self.domain = TrustDomain("bank.test")
        self.names = [NAME]
        self.ttl = 300.0
        self.signer = self.domain  # who signs what is issued
        self.bundle = self.domain  # whose bundles are given out
        self.audience: list[str] | None = None  # another than the one asked for
        self.codes: list[grpc.StatusCode] = []  # one for each of the next calls
        self.silent = False
        self.empty = False
        self.calls: Counter[str] = Counter()
        self._ended = threading.Event()

    def __enter__(self) -> Agent:
        self._ended.clear()
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool)
        rpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.socket)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.stop(grace=0.2).wait(5)
        self._pool.shutdown()

    def svid(self, name: str) -> Any:
        certificate, key = self.signer.x509_svid(name, self.ttl, datetime.now(UTC))
        return proto.X509SVID(spiffe_id=name, x509_svid=certificate, x509_svid_key=key, bundle=self.bundle.ca_der)

    def FetchX509SVID(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802  # the proto's name
        self._admit("x509", context)
        yield proto.X509SVIDResponse(svids=[] if self.empty else [self.svid(name) for name in self.names])
        self._hold(context)

    def FetchJWTBundles(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802  # the proto's name
        self._admit("bundles", context)
        yield proto.JWTBundlesResponse(bundles={f"spiffe://{self.bundle.name}": self.bundle.jwks})
        self._hold(context)

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:  # noqa: N802  # the proto's name
        self._admit("jwt", context)
        names = [] if self.empty else [name for name in self.names if request.spiffe_id in ("", name)]
        if request.spiffe_id and not names and not self.empty:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        audience = list(request.audience) if self.audience is None else self.audience
        tokens = [(name, self.signer.jwt_svid(name, audience, self.ttl, datetime.now(UTC))) for name in names]
        return proto.JWTSVIDResponse(svids=[proto.JWTSVID(spiffe_id=name, svid=token) for name, token in tokens])

    def _admit(self, call: str, context: Any) -> None:
        self.calls[call] += 1
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        if self.codes:
            context.abort(self.codes.pop(0), "as the test says")
        while self.silent and context.is_active() and not self._ended.is_set():
            time.sleep(0.01)

    def _hold(self, context: Any) -> None:
        while context.is_active() and not self._ended.is_set():
            time.sleep(0.01)
