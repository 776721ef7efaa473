"""A SPIFFE Workload API on a unix socket, from the proto that the package `spiffe` ships.

It issues X.509-SVIDs and JWT-SVIDs for one identity of a trust domain made at start, and pushes what rotates on its
streams. What it cannot do is attest its caller: grpc in Python does not tell who is at the other end of the socket, so
the socket's file mode decides.

    with WorkloadApi(tmp_path, ttl=4) as api:
        source = JwtSource(socket_path=api.address, timeout_in_seconds=5)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import grpc
import jwt
from spiffe._proto import workload_pb2 as proto
from spiffe._proto import workload_pb2_grpc as rpc

from tests.services.endpoints import write_private
from tests.services.trust_domain import TrustDomain

SOCKET_NAME = "workload.sock"
SOCKET_PATH_LIMIT = 107
SECURITY_HEADER = ("workload.spiffe.io", "true")
STREAMS = 32

# serve; silent: takes the call and never answers; empty: redacts, with an answer that holds nothing; denied: an error.
Mode = Literal["serve", "silent", "empty", "denied"]
T = TypeVar("T")


class WorkloadApi(rpc.SpiffeWorkloadAPIServicer):
    """A Workload API for the time of a `with`.

    Args:
        folder: Where the socket is made; a short temporary folder is taken where this one's path is too long.
        spiffe_id: The one identity it hands out.
        ttl: Seconds that an SVID lives. At half of it a new X.509-SVID is pushed.
    """

    def __init__(self, folder: Path, *, spiffe_id: str = "spiffe://agents.test/support-bot", ttl: float = 300) -> None:
        self.spiffe_id, self.ttl = spiffe_id, ttl
        self.domain = TrustDomain(spiffe_id.removeprefix("spiffe://").partition("/")[0])
        self.issued = {"jwt": 0, "x509": 0}
        self._mode: Mode = "serve"
        self._changed = threading.Condition()
        self._version, self._closed = 0, False
        self._own_folder = None
        if len(str(folder / SOCKET_NAME)) > SOCKET_PATH_LIMIT:
            self._own_folder = folder = Path(tempfile.mkdtemp(prefix="agentguard-", dir="/tmp"))
        self._socket = folder / SOCKET_NAME
        self._server: Any = None

    @property
    def address(self) -> str:
        """What SPIFFE_ENDPOINT_SOCKET holds."""
        return f"unix://{self._socket}"

    @property
    def mode(self) -> Mode:
        """How calls are answered from now on; open streams hear of a change."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._push(lambda: setattr(self, "_mode", mode))

    def rotate(self) -> None:
        """Push a new X.509-SVID and a bundle with a new JWT key to every open stream."""
        self._push(self.domain.rotate_jwt_key)

    def __enter__(self) -> WorkloadApi:
        self._pool = ThreadPoolExecutor(STREAMS)
        self._server = grpc.server(self._pool)
        rpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        # Nobody else may connect, not even between the socket's making and a chmod.
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(self.address)
            self._server.start()
        finally:
            os.umask(mask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._push(lambda: setattr(self, "_closed", True))
        self._server.stop(grace=0.2).wait(5)
        self._pool.shutdown()
        self._socket.unlink(missing_ok=True)
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    # The five calls of the Workload API. Their names are the proto's.

    def FetchX509SVID(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._stream(context, self._x509_svid, proto.X509SVIDResponse(), self.ttl / 2)

    def FetchX509Bundles(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        bundles = {self._domain_id: self.domain.ca_der}
        yield from self._stream(
            context, lambda: proto.X509BundlesResponse(bundles=bundles), proto.X509BundlesResponse(), None
        )

    def FetchJWTBundles(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        def bundle() -> Any:
            return proto.JWTBundlesResponse(bundles={self._domain_id: self.domain.jwks})

        yield from self._stream(context, bundle, proto.JWTBundlesResponse(), None)

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._admit(context)
        if not request.audience:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
        if request.spiffe_id not in ("", self.spiffe_id):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such identity for this workload")
        if self._mode == "empty":
            return proto.JWTSVIDResponse()
        self.issued["jwt"] += 1
        token = self.domain.jwt_svid(self.spiffe_id, list(request.audience), self.ttl, datetime.now(UTC))
        return proto.JWTSVIDResponse(svids=[proto.JWTSVID(spiffe_id=self.spiffe_id, svid=token)])

    def ValidateJWTSVID(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._admit(context)
        try:
            claims = self.domain.verify_jwt_svid(request.svid, request.audience)
        except jwt.PyJWTError as problem:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, type(problem).__name__)
        response = proto.ValidateJWTSVIDResponse(spiffe_id=str(claims["sub"]))
        response.claims.update(claims)
        return response

    @property
    def _domain_id(self) -> str:
        return f"spiffe://{self.domain.name}"

    def _x509_svid(self) -> Any:
        self.issued["x509"] += 1
        certificate, key = self.domain.x509_svid(self.spiffe_id, self.ttl, datetime.now(UTC))
        svid = proto.X509SVID(
            spiffe_id=self.spiffe_id, x509_svid=certificate, x509_svid_key=key, bundle=self.domain.ca_der
        )
        return proto.X509SVIDResponse(svids=[svid])

    def _stream(self, context: Any, make: Callable[[], T], nothing: T, every: float | None) -> Iterator[T]:
        """Send now, at each change, and after `every` seconds, until the client goes or the server ends."""
        context.add_callback(self._wake)
        while context.is_active() and not self._closed:
            seen = self._version
            self._admit(context)
            yield nothing if self._mode == "empty" else make()
            end = None if every is None else time.monotonic() + every
            self._wait(lambda seen=seen: self._version != seen or not context.is_active(), end)  # type: ignore[misc]  # the default binds this round's value

    def _admit(self, context: Any) -> None:
        """Refuse a call without the header that a forwarded request would not have; then act as the mode says."""
        if SECURITY_HEADER not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        context.add_callback(self._wake)
        self._wait(lambda: self._mode != "silent" or not context.is_active(), None)
        if self._closed:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server ends")
        if self._mode == "denied":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")

    def _wait(self, until: Callable[[], bool], end: float | None) -> None:
        with self._changed:
            left = None if end is None else max(0.0, end - time.monotonic())
            self._changed.wait_for(lambda: self._closed or until(), left)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _push(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._version += 1
            self._changed.notify_all()


def fetch_jwt_bundle(address: str, timeout: float) -> bytes:
    """The first JWT bundle that a Workload API sends: its one trust domain's JWKS."""
    with grpc.insecure_channel(address) as channel:
        stream = rpc.SpiffeWorkloadAPIStub(channel).FetchJWTBundles(
            proto.JWTBundlesRequest(), metadata=[SECURITY_HEADER], timeout=timeout
        )
        try:
            return bytes(next(iter(next(stream).bundles.values())))
        finally:
            stream.cancel()


def main() -> None:
    """Serve until SIGTERM; the bundle's two files are there before the socket is."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.workload_api")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--spiffe-id", required=True)
    parser.add_argument("--ttl", type=float, default=300)
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    api = WorkloadApi(options.socket.parent, spiffe_id=options.spiffe_id, ttl=options.ttl)
    write_private(options.bundles / "bundle.jwks.json", api.domain.jwks)
    write_private(options.bundles / "bundle.pem", api.domain.ca_pem)
    with api:
        print(json.dumps({"socket": api.address, "spiffe_id": api.spiffe_id}), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
