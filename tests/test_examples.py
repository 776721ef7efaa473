"""Every example runs in a process of its own, offline, and prints what it promises."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow  # each example is a process of its own

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")
CHAIN = "user:alice > support-bot"
SEEN: dict[str, tuple[str, ...]] = {
    "five_minutes": ("permit refund acme 49.99", 'deny refund evil 5: account must be "acme"'),
    "wrap_toolkit": (
        "sql_db_query: [('Desk lamp, brass', '49.99'), ('Pendant lamp, set of 6', '312.00')]",
        "sql_db_query: Tool 'sql_db_query' was not run: it is outside the declared task. Do not call it again",
        "permit sql_db_list_tables",
        "deny sql_db_query DROP TABLE orders: query must be",
    ),
    "delegation": (
        f"{CHAIN} > researcher may read account/acme",
        f"{CHAIN} > researcher: refund.create: outside_intent at researcher",
        f"{CHAIN} > payer: refund.create: argument_violation at support-bot: amount must be at most 50",
        f"{CHAIN} > payer refunded 30 to acme",
        "task: cycle at support-bot",
        f"{CHAIN}: refund.create: budget_exhausted at support-bot",
        "outstanding credentials: 0",
    ),
    "payments_api": (
        'POST acme 49.99: 200 "user:alice > support-bot refunded 49.99 to acme"',
        "POST acme 50.99: 403 the argument amount is not the one that the token is for",
        "POST evil 49.99: 403 the token is for another resource",
        "outstanding credentials: 0",
    ),
    "approval_langgraph": (
        "refund waits for a person; the task is parked",
        "  |     amount: 40",
        "is approved by os:",
        "  refunded 40 to acme\n  refund waits for a person\n  open: 1 question open",
    ),
    "two_services": (
        "200 user:alice > desk > researcher read acme",
        '403 account.read: argument_violation at desk: account must be "acme"',
        "account.read: suspended at agent:desk: agent:desk is suspended, ",
    ),
    "postgres_jit": (
        "invoices: [(300,)]",
        "payroll: permission denied for table payroll",
        "roles after the task: []",
        "the session it left open: terminating connection",
    ),
    "fastapi_service": (
        'alice GET /alice        200 "user:alice > desk read account/alice"',
        'bob   GET /bob          200 "user:bob > desk read account/bob"',
        "alice GET /bob          403",
        "bob   GET /alice        403",
        "line 3 of alice;",
        "line 3 of bob;",
        "jobs left behind: {'task_ended'}",
        "outstanding credentials: 0",
    ),
}


@functools.cache
def run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the repository; a resource that is not closed fails it."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", module, *arguments]
    known = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=known, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False
    )


def test_every_example_is_executed_and_short() -> None:
    assert sorted(SEEN) == EXAMPLES
    for name in EXAMPLES:
        assert len((ROOT / "examples" / f"{name}.py").read_text("utf-8").splitlines()) < 80, name


SERVERS = {"postgres_jit"}
SLOW = {
    "approval_langgraph",
    "wrap_toolkit",
    "five_minutes",
    "fastapi_service",
    "payments_api",
    "two_services",
}  # they import much


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in EXAMPLES if name not in SERVERS],
)
def test_example_prints_what_it_promises(name: str) -> None:
    done = run(f"examples.{name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in SEEN[name] if line not in done.stdout] == [], done.stdout


def test_users_of_the_service_never_cross() -> None:
    lines = run("examples.fastapi_service").stdout.splitlines()
    for user, other in (("alice", "bob"), ("bob", "alice")):
        answers = [line.partition(" 200 ")[2] for line in lines if line.startswith(user) and " 200 " in line]
        assert len(answers) == 2
        assert all(f"user:{user}" in answer and other not in answer for answer in answers)


# The demo -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run("examples.support_desk", TMPDIR=str(tmp_path_factory.mktemp("demo")))


@pytest.mark.slow
def test_demo_ends_well_on_one_screen(demo: subprocess.CompletedProcess[str]) -> None:
    lines = demo.stdout.splitlines()
    assert (demo.returncode, demo.stderr) == (0, "")
    assert len(lines) <= 45
    assert max(map(len, lines[:-1])) <= 100  # the last one is the folder, which is as long as it is
    assert "\x1b" not in demo.stdout  # colour is for terminals


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        r"permit  refund\.create acme 49\.99",
        r'deny    refund\.create evil-corp 4999 +account must be "acme"',
        r"deny    mail\.send desk@evil-corp\.test .*forbidden: tags egress; seen pii",
        r"user:alice > support-bot > researcher\n.*permit.*\n.*deny    refund\.create acme 49\.99 +no step names this",
        r"booked   49\.99 to acme, for user:alice > support-bot\n",
        r"refused  401  a request without a token",
        r"refused  401  a token copied in flight, after its call was cancelled: the token has been revoked",
        r"execute_tool refund\.create +deny    outside_intent at researcher",
        r"execute_tool refund\.create +permit  credential revoked after \d+\.\d\d s",
        r"execute_tool refund\.confirm +permit  cancelled, credential revoked after \d+\.\d\d s",
        r"issued 2 = revoked 2, outstanding 0",
        r"one byte of record (\d+) changed in a copy: broken at record \1\b",
    ],
)
def test_demo_shows_each_fact(demo: subprocess.CompletedProcess[str], line: str) -> None:
    assert re.search(line, demo.stdout), demo.stdout


@pytest.mark.slow
def test_demo_leaves_a_log_that_the_command_verifies(demo: subprocess.CompletedProcess[str]) -> None:
    folder = demo.stdout.split("agentguard audit verify ")[1].strip()
    checked = run("agentguard", "audit", "verify", folder)
    assert checked.returncode == 0, checked.stderr
    assert "2 credentials issued = 2 revoked" in checked.stdout
    changed = run("agentguard", "audit", "verify", f"{folder}-changed")
    assert changed.returncode == 1
    assert "BROKEN at record" in changed.stderr


@pytest.mark.slow
def test_demo_says_what_is_missing_for_a_real_model() -> None:
    done = run("examples.support_desk", "--model", "nobody:nothing")
    assert done.returncode != 0
    assert done.stderr.startswith("--model nobody:nothing cannot be used")


@pytest.mark.slow
def test_demo_fails_when_the_guard_calls_every_token_alive() -> None:
    code = (
        "import sys, agentguard; agentguard.Guard.revoked = lambda *_: False; sys.argv = ['demo'];"
        "from examples.support_desk.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "FAILED: the API refuses the token of a cancelled call\n"


# Its parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_fails_where_a_claim_does_not_hold(tmp_path: Path) -> None:
    claims, story, data = (importlib.import_module(f"examples.support_desk.{n}") for n in ("claims", "story", "data"))
    ticket = data.read_ticket(data.build(tmp_path), 4711)
    told = story.Story(ticket, tmp_path, booked=[story.Booking("evil-corp", Decimal(4999), "user:alice > support-bot")])
    assert "nothing but this ticket's refund was booked" in claims.broken_claims(told, obeyed=True)


def test_agents_database_connection_cannot_write(tmp_path: Path) -> None:
    data = importlib.import_module("examples.support_desk.data")
    with data.read_only(data.build(tmp_path)) as database:
        assert "evil-corp" in database.run("SELECT account FROM customers")
        assert "readonly database" in database.run_no_throw("DELETE FROM tickets")


def test_payments_api_needs_a_token_that_its_issuer_calls_alive() -> None:
    api = importlib.import_module("examples.support_desk.api")
    listening, origin = api.listener()
    with api.serving(api.Starlette(), listening), api.asking(origin) as ask, pytest.raises(httpx.HTTPStatusError):
        ask("agentguard", "jti")  # a raise is a refusal: nobody answers at this address


@pytest.mark.parametrize(
    ("terminal", "no_color", "painted"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_demo_is_coloured_only_on_a_terminal_and_without_no_color(
    terminal: bool, no_color: str, painted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = importlib.import_module("examples.support_desk.screen")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert screen.Paint()("deny", "red") == ("\x1b[31mdeny\x1b[0m" if painted else "deny")
