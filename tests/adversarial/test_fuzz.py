"""Case 71 of the adversarial list, and 13 and 65 with it: whatever parsers read, only typed errors, in bounded time.

The parsers of the resource server are fuzzed beside it, in tests/resource_server/test_fuzz.py.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentguard.errors import NotCanonical
from agentguard.model.canonical import canonical, digest
from tests.adversarial.fuzz.targets import TARGETS

SECONDS: Final = 0.5  # for one input, on a machine that others use too
RUNS: Final = 50_000  # inputs that atheris tries the targets with
AT_MOST: Final = 15  # seconds for them
ROOT: Final = Path(__file__).parents[2]
control = pytest.mark.control("fuzz only typed errors, in bounded time (case 71)")


def timed(name: str, data: bytes, seconds: float = SECONDS) -> None:
    # A collection of the whole process's garbage may fall into one time, and hardly into two.
    assert took(name, data) < seconds or took(name, data) < seconds, f"{name} took too long for {len(data)} bytes"


def took(name: str, data: bytes) -> float:
    started = time.process_time()
    TARGETS[name].run(data)
    return time.process_time() - started


def mutations(name: str) -> st.SearchStrategy[bytes]:
    """A well-formed input with a piece cut out, put in twice, or replaced; or any bytes at all."""
    seeds = st.sampled_from(TARGETS[name].seeds)
    place = st.integers(0, 400)
    changed = st.builds(
        lambda seed, at, length, piece, times: seed[:at] + piece * times + seed[at + length :],
        seeds, place, st.integers(0, 20), st.binary(max_size=12) | st.sampled_from(_PIECES), st.integers(0, 3),
    )  # fmt: skip
    return changed | st.binary(max_size=300)


_PIECES: Final = (
    b"{", b"[", b'"', b"\\u0000", b"\x00", b"\xff", b"&a ", b"*a", b"<<: ", b"!!", b"\n", b"\t", b"- ", b": ", b"%",
    b"9" * 300, b"1e400", b"NaN", b"\xe2\x80\xae", b"\xed\xa0\x80", b"../", b"%2e", b"@", b"..", b"--- ", b"? ", b"| ",
)  # fmt: skip


@control
@pytest.mark.parametrize("name", TARGETS)
def test_case_71_only_typed_errors_leave_a_parser(name: str) -> None:
    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=mutations(name))
    def fuzz(data: bytes) -> None:
        timed(name, data)

    for seed in TARGETS[name].seeds:
        timed(name, seed)
    fuzz()


HOSTILE: Final = {
    "deep brackets": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep flow in a mapping": b"version: " + b"[" * 50_000 + b"]" * 50_000,
    "deep indentation": b"".join(b" " * depth + b"a:\n" for depth in range(1_000)),
    "a number of 5,000 digits": b'{"version": ' + b"9" * 5_000 + b"}",
    "an exponent": b"version: 1e999999999",
    "an alias bomb": b"a: &a [x,x,x,x]\n" + b"".join(
        b"%c: &%c [*%c,*%c,*%c,*%c]\n" % (c, c, c - 1, c - 1, c - 1, c - 1) for c in range(ord("b"), ord("z"))
    ),
    "a tag": b"a: !!python/object/apply:os.system ['true']",
    "5 MB": b"a" * 5_000_000,
    "many keys": b"".join(b"k%d: 1\n" % number for number in range(10_000)),
    "many documents": b"--- a\n" * 50_000,
    "NULs": b"\x00" * 100_000,
    "one long quote": b'a: "' + b"x" * 500_000,
    "escapes": b'"' + b"\\u0061" * 50_000,
    "one scheme over and over": b"DPoP," * 12_000,
    "one challenge over and over": b'DPoP error="use_dpop_nonc", ' * 2_000,
    "commas": b"DPoP " + b"," * 60_000,
    "dots": b"." * 60_000,
    "blanks": b" " * 60_000 + b"x",
    "slashes": b"spiffe://a" + b"/b" * 30_000,
    "a date": b"Wed, 21 Oct " + b"9" * 50_000,
    "lines": b"{}\n" * 50_000,
}  # fmt: skip


@control
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", TARGETS)
def test_case_13_and_71_what_is_deep_long_or_repeated_is_refused_soon(name: str, what: str) -> None:
    timed(name, HOSTILE[what], seconds=4.0 if name.endswith("yaml") or name in ("intent", "journal") else SECONDS)


@control
@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
@example({"a": 1, "b": {"c": [1.0, -0.0]}})
@example({"\u00e9": 1, "e\u0301": 2})
@example(10**400)
def test_case_65_a_value_has_one_canonical_form_or_none(value: object) -> None:
    try:
        first = digest(canonical(value))
    except NotCanonical:
        return
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert first == digest(canonical(turned))
    assert first == digest(canonical(json.loads(json.dumps(value)))) or not _plain(value)


def _plain(value: object) -> bool:
    """Whether a JSON text says the same."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    return all(map(_plain, value)) if isinstance(value, list) else isinstance(value, str | bool | int | None)


@control
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="case 71 is not fuzzed by coverage here: atheris, of the dependency group `fuzz`, is not installed",
)
def test_case_71_coverage_finds_nothing_that_leaves_a_parser(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, target in enumerate(TARGETS.values()):
        for place, seed in enumerate(target.seeds):
            (corpus / f"{number}-{place}").write_bytes(bytes([number]) + seed)

    options = [f"-runs={RUNS}", f"-max_total_time={AT_MOST}", "-timeout=5", "-max_len=4096"]
    options += [f"-artifact_prefix={tmp_path}/"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.adversarial.fuzz.atheris_target", *options, corpus],
        cwd=ROOT, capture_output=True, text=True, timeout=6 * AT_MOST, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "DONE" in ended.stderr
