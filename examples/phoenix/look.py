"""In a network namespace: Phoenix, one OTLP request, and a look at what it shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ORIGIN: Final = "http://127.0.0.1:6006"
START: Final = 180  # seconds; it migrates a database first
CHROMIUM: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1500,900",
    "--virtual-time-budget=25000",
)  # fmt: skip
SPANS: Final = """query($id: ID!) {node(id: $id) {... on Project {spans(first: 100) {edges {node {
    id name statusCode parentId trace {traceId}}}}}}}"""


def look(venv: Path, work: Path, trace: Path, folder: Path) -> int:
    """Start Phoenix, send the trace, take the pictures.

    Args:
        venv: where Phoenix is installed.
        work: a folder for its database and the browser's profile.
        trace: a file with one OTLP request.
        folder: where the pictures go.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("Chromium is missing: apt-get install chromium", file=sys.stderr)
        return 1
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with _phoenix(venv, work):
        _post("/v1/traces", trace.read_bytes(), "application/x-protobuf")
        for name, page in _pages().items():
            profile = work / f"browser-{name}"
            command = [browser, *CHROMIUM, f"--user-data-dir={profile}", f"--screenshot={folder / name}.png", page]
            subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            print(folder / f"{name}.png")
    return 0


@contextmanager
def _phoenix(venv: Path, work: Path) -> Iterator[None]:
    own = {"PHOENIX_WORKING_DIR": str(work), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": "6006", "HOME": str(work)}
    own["PHOENIX_TELEMETRY_ENABLED"] = "false"
    with (work / "phoenix.log").open("wb") as log:
        server = subprocess.Popen(
            [venv / "bin" / "phoenix", "serve"], env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(server)
            yield
        finally:
            server.terminate()
            server.wait(30)


def _wait(server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{ORIGIN}/healthz", timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise SystemExit("Phoenix did not start")


def _pages() -> Mapping[str, str]:
    """The list of all spans, the trace, and the call in it that a delegated agent was denied."""
    project, spans = "", list[Any]()
    until = time.monotonic() + 30
    while not any(span["parentId"] is None for span in spans):  # what is sent is stored a moment later
        if time.monotonic() > until:
            raise SystemExit("the trace did not arrive")
        time.sleep(0.5)
        project, spans = _stored()
    base, trace = f"{ORIGIN}/projects/{project}", spans[0]["trace"]["traceId"]
    denied = next(span["id"] for span in spans if span["statusCode"] == "ERROR")
    return {
        "phoenix-list": f"{base}/spans?spanFilterCondition=",  # without its default, which is: roots only
        "phoenix-trace": f"{base}/traces/{trace}",
        "phoenix-denied": f"{base}/traces/{trace}?selectedSpanNodeId={denied}",
    }


def _stored() -> tuple[str, list[Any]]:
    found = _ask("{projects {edges {node {id traceCount}}}}")["projects"]["edges"]
    project = next((edge["node"]["id"] for edge in found if edge["node"]["traceCount"]), "")
    if not project:
        return "", []
    return project, [edge["node"] for edge in _ask(SPANS, id=project)["node"]["spans"]["edges"]]


def _ask(query: str, **variables: str) -> Any:
    asked = json.dumps({"query": query, "variables": variables}).encode()
    return json.loads(_post("/graphql", asked, "application/json"))["data"]


def _post(path: str, body: bytes, kind: str) -> bytes:
    request = urllib.request.Request(f"{ORIGIN}{path}", body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as answer:
        told: bytes = answer.read()
    return told


if __name__ == "__main__":
    sys.exit(look(*map(Path, sys.argv[1:5])))
