"""What importing costs: processor time in fresh interpreters, over importing the OpenTelemetry API.

Each measurement is a process of its own; they are run in turn, and the interpreter's own start is not counted. Beside
the time stands what is counted without noise: how many modules are ours, and which heavy ones are there. Run as
`python -m bench.imports [--json]`.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.harness import SPUN, Bar, Ratio, controlled, figure, number, summary, valid, versions
from bench.report import printed

DECLARING: Final = "from agentguard import guarded, Intent, step"
# What a module of tools does while it is imported: what was not loaded with the names must not be paid for here.
DECLARED: Final = f"""
{DECLARING}

@guarded("crm.read", effect="read", audience="https://crm.test", scopes=["crm:read"])
def read(customer: str) -> str: return customer
"""
INTENDED: Final = f"""
{DECLARED}
Intent("Measure", step("crm.read", customer="c-1"))
"""
API: Final = "from opentelemetry import trace"
CALLING: Final = """
import tempfile
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
import agentguard
from agentguard import guarded, Intent, step

@guarded("crm.read", effect="read", audience="https://crm.test", scopes=["crm:read"])
def read(customer): return customer

with tempfile.TemporaryDirectory() as folder, agentguard.local(audit=folder) as guard:
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Measure", step("crm.read", customer="c-1"))):
        read("c-1")
"""
COLD: Final = """
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
ec.generate_private_key(ec.SECP256R1())
"""
# What a program that only declares tools must not load: most of it may not even be installed.
FORBIDDEN: Final = (
    "cedarpy", "cryptography", "httpcore", "httpx", "jwt", "langchain_core", "opentelemetry.sdk", "psycopg", "requests",
    "rich", "sqlalchemy", "sqlite3", "starlette", "tenacity", "yaml",
)  # fmt: skip
BARS: Final[Mapping[str, Bar]] = {"import_over_otel_api": Bar(1.2), "forbidden_modules": Bar(0)}
_TIMER: Final = "import time\nbegan = time.process_time_ns()\n{code}\nprint(time.process_time_ns() - began)"
_LISTER: Final = "import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
# A tenth more than the code itself took: whether that is seen is the positive control.
_SPUN: Final = (
    "{code}\nspent = time.process_time_ns() - began\nwhile time.process_time_ns() < began + spent * {more}: pass"
)


def seconds(code: str) -> float:
    """Processor time of some code in a fresh interpreter."""
    return int(_said(_TIMER.format(code=code), _environment())) / 1e9


def modules(code: str) -> Sequence[str]:
    """The modules that a fresh interpreter holds after some code."""
    return list(json.loads(_said(_LISTER.format(code=code), dict(os.environ))))


def forbidden(loaded: Sequence[str]) -> Sequence[str]:
    """Those that nobody who declares tools should pay for."""
    return [name for name in FORBIDDEN if name in loaded]


@functools.cache
def _environment() -> Mapping[str, str]:
    """Compiled files are written, once, to a folder of this run: a second import is what programs see."""
    folder = tempfile.mkdtemp(prefix="bench-imports-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rest = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**rest, "PYTHONPYCACHEPREFIX": folder}


def _said(code: str, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"the code that is measured failed:\n{done.stderr}")
    return done.stdout


def paired(baseline: str, cases: Mapping[str, str], rounds: int) -> Mapping[str, Ratio]:
    """Every case over the baseline, in turn, each in a process of its own."""
    spun = _SPUN.format(code=baseline, more=1 + SPUN)
    everything = {"baseline": baseline, "control": baseline, **cases, "spun": spun}
    for code in everything.values():
        seconds(code)  # compiled files are written once
    times: dict[str, list[float]] = {name: [] for name in everything}
    for turn in range(rounds):
        for name in everything if turn % 2 else reversed(everything):
            times[name].append(seconds(everything[name]))
    floor = times.pop("baseline")
    return controlled({
        name: summary([one / other for one, other in zip(found, floor, strict=True)]) for name, found in times.items()
    })  # fmt: skip


def report(rounds: int) -> Mapping[str, Any]:
    """All figures, with the bars they are held against."""
    cases = {"import_over_otel_api": DECLARING, "tool_over_otel_api": DECLARED, "intent_over_otel_api": INTENDED}
    declaring = paired(API, cases, rounds)
    calling = paired(COLD, {"first_call_over_crypto_and_sdk": CALLING}, rounds)
    ratios = {**declaring, **calling, "control": declaring["control"], "control_first_call": calling["control"]}
    loaded = modules(DECLARING)
    ours = [name for name in loaded if name.partition(".")[0] == "agentguard"]
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    found = forbidden(loaded)
    counts = {
        "forbidden_modules": {**number(len(found), BARS["forbidden_modules"]), "names": found},
        "modules_of_ours": number(len(ours)), "modules_in_all": number(len(loaded)),
    }  # fmt: skip
    ok = valid(ratios["control"]) and valid(ratios["control_first_call"])
    return {"valid": ok, "figures": {**figures, **counts}, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.imports", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    return printed(report(options.rounds), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
