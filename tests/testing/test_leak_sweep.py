"""The sweep finds a canary in every channel and disguise, and says where without showing it."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import sqlite3
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pydantic
import pytest
from opentelemetry import _logs, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from agentguard import Denied
from agentguard.model.lease import Secret
from agentguard.testing import fake_guard
from agentguard.testing.leaks import Sweep, assert_no_leaks, sweep
from agentguard.testing.leaks.sweep import MAX_TEXT
from tests.tools import everything, pay

CANARY = "canary/Zq8+ü-4711-never-shown-to-anyone"
NAMED = {"the password": CANARY}
sweeps = pytest.mark.control("the leak sweep (case 66)")

DISGUISES: dict[str, Callable[[str], str | bytes]] = {
    "plain": lambda s: f"x {s} y",
    "bytes": lambda s: f"x {s} y".encode(),
    "base64": lambda s: base64.b64encode(f"user:{s}".encode()),
    "base64, other alignment": lambda s: base64.b64encode(f"ab{s}!".encode()).decode(),
    "base64url": lambda s: base64.urlsafe_b64encode(s.encode()).decode().rstrip("="),
    "wrapped base64": lambda s: base64.encodebytes(f"{'x' * 40}{s}".encode()),
    "hex": lambda s: s.encode().hex(),
    "upper hex": lambda s: s.encode().hex().upper(),
    "percent-encoded": lambda s: f"https://api.test/?token={quote(s, safe='')}",
    "json": lambda s: json.dumps({"token": s}),
    "json in json": lambda s: json.dumps(json.dumps({"token": s})),
    "python": lambda s: ascii(s),
    "html": lambda s: "".join(f"&#{ord(char)};" for char in s),
    "utf-16": lambda s: s.replace("ü", "u").encode("utf-16"),
    "reversed": lambda s: s[::-1],
    "cut off": lambda s: f"token {s[:34]}...",
    "over two lines": lambda s: f"{s[:9]}\n  {s[9:]}",
}


@sweeps
@pytest.mark.parametrize("disguise", DISGUISES)
def test_canary_is_found_in_every_disguise(disguise: str) -> None:
    found = Sweep({"the password": CANARY.replace("ü", "u") if disguise == "utf-16" else CANARY})
    found.keep("there", DISGUISES[disguise](CANARY))
    assert ["the password"] == [leak.canary for leak in found.leaks]


ODD = "p ss😀wörd+1"  # what a person may type
ODD_DISGUISES: dict[str, Callable[[str], str | bytes]] = {
    "json": lambda s: json.dumps({"password": s}),
    "json in json": lambda s: json.dumps(json.dumps([s])),
    "python": lambda s: ascii([s]),
    "python's bytes": lambda s: repr({"body": s.encode()}),
    "a form": lambda s: urlencode({"user": "alice", "password": s}),
}


@sweeps
@pytest.mark.parametrize("disguise", ODD_DISGUISES)
def test_password_of_any_characters_is_found_in_every_disguise(disguise: str) -> None:
    found = Sweep({"the password": ODD})
    found.keep("there", ODD_DISGUISES[disguise](ODD))
    assert ["the password"] == [leak.canary for leak in found.leaks]


def test_escape_of_no_character_is_left_alone() -> None:
    found = Sweep(NAMED)
    found.keep("there", r"\Uffffffff \ud83d \xff \x4 \U0001 +")
    found.assert_no_leaks()


def test_payload_of_a_token_alone_is_found() -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImp0aSI6IjEyMyJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
    header, payload, signature = token.split(".")
    found = Sweep({"token": Secret(token)})
    found.keep("header", header)
    assert not found.leaks
    found.keep("payload", payload)
    found.keep("signature", signature)
    assert ["payload", "signature"] == [leak.where for leak in found.leaks]


@dataclasses.dataclass
class Hiding:
    password: str = dataclasses.field(repr=False)


class Slotted:
    __slots__ = ("password",)

    def __init__(self, password: str) -> None:
        self.password = password


class Model(pydantic.BaseModel):
    password: str = pydantic.Field(repr=False)


class Raising:
    def __init__(self, password: str) -> None:
        self._hidden = {"in": password}

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle the holder of {self._hidden['in']}")


@sweeps
@pytest.mark.parametrize(
    "make",
    [Hiding, Slotted, lambda s: Model(password=s), Raising, lambda s: {"a": [Hiding(s)]}, lambda s: [s[:7], s[7:]]],
)
def test_canary_is_found_in_objects_whose_repr_hides_it(make: Callable[[str], object]) -> None:
    with pytest.raises(AssertionError, match="the password in result"):
        assert_no_leaks(NAMED, result=make(CANARY))


def raising(canary: str) -> None:
    local = [canary]
    raise RuntimeError(f"{len(local)} bad")


def noted(error: BaseException) -> BaseException:
    error.add_note(CANARY)
    return error.with_traceback(None)


def holding(error: Any) -> BaseException:
    error.token = CANARY
    return error.with_traceback(None)  # type: ignore[no-any-return]  # it is the error


@sweeps
@pytest.mark.parametrize(
    "change",
    [
        lambda e: e,
        noted,
        holding,
        lambda e: ExceptionGroup("all", [e]),
    ],
    ids=["locals", "note", "field", "group"],
)
def test_canary_is_found_in_all_that_an_exception_drags_along(change: Callable[[Any], BaseException]) -> None:
    found = Sweep(NAMED)
    try:
        raising(CANARY)
    except RuntimeError as error:
        found.look("error", change(error))
    assert found.leaks


def test_suppressed_context_of_an_exception_is_looked_at() -> None:
    found = Sweep(NAMED)
    try:
        try:
            raise ValueError(CANARY)
        except ValueError:
            raise RuntimeError("clean") from None
    except RuntimeError as error:
        assert CANARY not in "".join(traceback.format_exception(error))
        found.look("error", error)
    assert "ValueError" in str(found.leaks)


def test_locals_of_the_test_itself_are_no_leak() -> None:
    mine = CANARY
    found = Sweep({"the password": mine})
    try:
        raise RuntimeError("clean")
    except RuntimeError as error:
        found.look("error", error)
    found.assert_no_leaks()


def test_locals_of_functions_that_are_named_are_no_leak() -> None:
    found = Sweep(NAMED, mine=[raising])
    try:
        raising(CANARY)
    except RuntimeError as error:
        found.look("error", error)
    found.assert_no_leaks()


def log_it() -> None:
    logging.getLogger("deep.below").debug("token %s", CANARY)


def log_its_exception() -> None:
    try:
        raising(CANARY)
    except RuntimeError:
        logging.getLogger("app").exception("it failed")


def log_its_field() -> None:
    logging.getLogger("app").warning("it failed", extra={"header": CANARY})


def log_in_two_parts() -> None:
    logging.getLogger("app").info(CANARY[:8])
    logging.getLogger("app").info(CANARY[8:])


def span_it() -> None:
    trace.get_tracer_provider().get_tracer("x").start_span("s", attributes={"header": CANARY}).end()


def span_event() -> None:
    span = trace.get_tracer_provider().get_tracer("x").start_span("s")
    span.record_exception(ValueError(CANARY))
    span.end()


def otel_log() -> None:
    _logs.get_logger_provider().get_logger("x").emit(body=f"token {CANARY}", attributes={"a": 1})


def warn() -> None:
    warnings.warn(CANARY, UserWarning, stacklevel=1)


CHANNELS: dict[str, Callable[[], object]] = {
    "log record of deep.below": log_it,
    "log record of app, its exception": log_its_exception,
    "log record of app, its fields": log_its_field,
    "the log's messages, put together": log_in_two_parts,
    "standard output": lambda: print(CANARY),
    "standard error": lambda: print(CANARY, file=sys.stderr),
    "a UserWarning": warn,
    "span s": span_it,
    "span s, event exception": span_event,
    "OpenTelemetry log record": otel_log,
}


@sweeps
@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.filterwarnings("default::UserWarning")
def test_canary_is_found_in_every_channel(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spans, logs = TracerProvider(), LoggerProvider()
    monkeypatch.setattr(warnings, "showwarning", lambda *said: None)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans)
    monkeypatch.setattr(_logs, "get_logger_provider", lambda: logs)
    with sweep(NAMED) as found:
        CHANNELS[where]()
    places = [leak.where for leak in found.leaks]
    assert any(place.startswith(where) for place in places), places
    with pytest.raises(AssertionError) as failed:
        found.assert_no_leaks()
    assert CANARY not in str(failed.value)
    assert CANARY not in repr(found)
    spans.shutdown()
    logs.shutdown()


def test_metrics_are_looked_at() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with sweep(NAMED, readers=[reader]) as found:
        provider.get_meter("x").create_counter("calls").add(1, {"user": CANARY})
    provider.shutdown()
    assert "metrics" in str(found.leaks)


def test_files_are_looked_at_with_their_names(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("create table t (secret text)")
        db.execute("insert into t values (?)", (CANARY,))
    db.close()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "canary-in-a-name").write_text("nothing")
    with sweep({**NAMED, "name": "canary-in-a-name"}, files=[tmp_path]) as found:
        pass
    assert {"file state.db", "the name of canary-in-a-name"} == {leak.where for leak in found.leaks}


def test_guards_records_and_explanations_are_looked_at() -> None:
    with fake_guard() as guard, sweep({"account": "acme-canary"}, guards=[guard]) as found:
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
            pay("acme-canary")
    places = {leak.where for leak in found.leaks}
    assert "decision 0 of the guard's explanation" in places
    assert any(place.startswith("record ") for place in places)


def test_exception_that_ends_the_run_is_looked_at_and_goes_on() -> None:
    with pytest.raises(RuntimeError), sweep(NAMED) as found:
        raise RuntimeError(CANARY)
    assert "the exception that ended the run" in str(found.leaks)


def test_files_of_a_run_that_ends_with_an_exception_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(KeyError), sweep(NAMED, files=[tmp_path]) as found:
        (tmp_path / "audit.jsonl").write_text(CANARY)
        raise KeyError("x")
    assert "file audit.jsonl" in str(found.leaks)


def test_log_record_whose_arguments_do_not_fit_is_looked_at_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with sweep(NAMED) as found:
        logging.getLogger("app").info("%s %s", CANARY)  # noqa: PLE1206  # what is meant
    assert "log record of app, its fields" in str(found.leaks)


@sweeps
def test_all_that_python_writes_to_the_terminal_is_looked_at() -> None:
    for write in (
        lambda: sys.stdout.writelines([CANARY[:9], CANARY[9:]]),
        lambda: sys.stderr.buffer.write(CANARY.encode()),
        lambda: sys.stdout.buffer.writelines([CANARY[:9].encode(), CANARY[9:].encode()]),
    ):
        with sweep(NAMED) as found:
            write()
        assert "standard" in str(found.leaks)


def test_canary_that_is_known_later_counts_for_what_was_kept_before() -> None:
    with sweep() as found:
        logging.getLogger("app").info("token %s", CANARY)
    found.canary("token", CANARY)
    assert "token" in str(found.leaks)


@sweeps
def test_sweep_that_can_prove_nothing_fails() -> None:
    with pytest.raises(AssertionError, match="no canary"):
        Sweep().assert_no_leaks()
    with pytest.raises(ValueError, match="shorter than 8"):
        Sweep({"short": "secret"})
    with pytest.raises(ValueError, match="too large"):
        Sweep(NAMED).keep("log", "x" * (MAX_TEXT + 1))


def test_parts_of_a_stream_are_put_together() -> None:
    found = Sweep(NAMED)
    found.parts("stream", [CANARY[:5], CANARY[5:].encode()])
    assert "put together" in str(found.leaks)


def test_nothing_stays_in_place_after_a_sweep() -> None:
    root = logging.getLogger()
    before = (sys.stdout, sys.stderr, warnings.showwarning, root.level, list(root.handlers))
    with sweep(NAMED):
        pass
    assert before == (sys.stdout, sys.stderr, warnings.showwarning, root.level, list(root.handlers))


def test_example_of_the_page_finds_nothing_and_would_find_something(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    scope["test_nothing_leaks"](tmp_path)
    careless = code.replace('"reading %s", number', '"reading %s", password').replace("ticket.read", "ticket.leak")
    exec(careless, scope)
    with pytest.raises(AssertionError, match="password in log record of app"):
        scope["test_nothing_leaks"](tmp_path)
