"""Keys that rotate: who signs when, what is published, and what a crash, another process or an intruder can do."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard.credentials.local import LocalIssuer
from agentguard.errors import ConfigurationError, CredentialUnavailable, TokenRejected, Unavailable
from agentguard.keys import KeyRing, Signer, Signers, SigningKey, Times, folder, rotate
from agentguard.keys.rotation import planned
from agentguard.keys.timetable import Timetable, Turn
from agentguard.model.lease import Grant, LeaseKey
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.resource_server import TokenVerifier

NOW = 1_800_000_000.0
TIMES = Times(propagation=600, lifetime=300, leeway=60)
AUDIENCE = "https://payments.test"
KEYS = [SigningKey.generate("EdDSA") for _ in range(12)]
posix = pytest.mark.skipif(os.name != "posix", reason="modes and locks of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def opened(path: Path, now: float = NOW) -> KeyRing:
    return KeyRing(path, poll=0, clock=lambda: now)


def signing(ring: KeyRing, now: float) -> str:
    return drive(ring.current(now)).kid


def kids(ring: KeyRing, now: float) -> set[str]:
    return {key["kid"] for key in ring.published(now).jwks()["keys"]}


def minted(issuer: LocalIssuer, now: float) -> str:
    chain = Chain(Subject("alice"), (Agent("bot"),))
    key = LeaseKey("", chain.subject.sub, "t", chain.names(), "pay", AUDIENCE, (), "")
    grant = Grant(key=key, chain=chain, task="t", intent_s256="s", deadline=now + 60)
    return drive(issuer.issue(grant, issuer.prepare(grant, now), now)).secret.reveal()


# turns ---------------------------------------------------------------------------------------------------------------


def test_the_first_key_signs_at_once_and_the_next_one_after_it_was_published(path: Path) -> None:
    rotate(path, NOW)
    ring = opened(path)
    first = signing(ring, NOW)

    done = rotate(path, NOW + 100, "EdDSA")

    assert done.new is not None
    new = done.new.public.kid
    assert [first, first, new] == [signing(ring, NOW + after) for after in (100, 699, 700)]
    assert {first, new} == kids(ring, NOW + 100) == kids(ring, NOW + 700) == kids(ring, NOW + 700 + 959)
    assert {new} == kids(ring, NOW + 700 + 960)


def test_a_rotation_while_the_next_key_is_pending_changes_nothing(path: Path) -> None:
    rotate(path, NOW)
    rotate(path, NOW + 1)
    before = (path / folder.FILE).read_bytes()

    assert rotate(path, NOW + 300).new is None
    assert before == (path / folder.FILE).read_bytes()


def test_keys_that_nobody_needs_leave_the_file_and_private_ones_before(path: Path) -> None:
    rotate(path, NOW)
    rotate(path, NOW + 10)

    third = rotate(path, NOW + 700).ring
    fourth = rotate(path, NOW + 2300).ring

    assert 3 == len(third.timetable.turns)
    assert 2 == len(third.private)
    assert third.timetable.turns[0].public.kid not in third.private
    assert 2 == len(fourth.timetable.turns)


@st.composite
def _rotations(draw: st.DrawFn) -> list[float]:
    gaps = draw(st.lists(st.integers(0, 3000), min_size=1, max_size=8))
    return [NOW + sum(gaps[: n + 1]) for n in range(len(gaps))]


@settings(max_examples=300)
@pytest.mark.control("10 keys overlap")
@given(
    rotations=_rotations(),
    signed_after=st.floats(0, 20_000),
    verified_after=st.floats(0, TIMES.lifetime + TIMES.leeway),
    cached_before=st.floats(0, TIMES.propagation),
)
def test_a_verifier_that_fetched_within_the_propagation_knows_the_key_of_every_token_that_lives(
    rotations: list[float], signed_after: float, verified_after: float, cached_before: float
) -> None:
    spare, files = iter(KEYS), list[tuple[float, Any]]()
    for now in rotations:
        ring = planned(files[-1][1] if files else None, lambda: next(spare), now, TIMES).ring
        files.append((now, ring))

    def at(moment: float) -> Any:
        return next((ring for written, ring in reversed(files) if written <= moment), files[0][1])

    signed = rotations[0] + signed_after
    fetched = max(rotations[0], signed + verified_after - cached_before)
    key = at(signed).timetable.signing(signed).public.kid

    assert key in at(signed).private
    assert key in {turn.public.kid for turn in at(fetched).timetable.published(fetched)}
    # Also a process that has not looked at the folder for five seconds signs by the same key.
    assert key == at(max(rotations[0], signed - 5)).timetable.signing(signed).public.kid


def test_a_timetable_is_in_order_and_names_no_key_twice() -> None:
    one, two = (Turn(key.public, NOW) for key in KEYS[:2])

    for turns in ((), (one, two), (one, Turn(one.public, NOW + 1)), (Turn(one.public, NOW + 1), two)):
        with pytest.raises(ConfigurationError, match="earliest first"):
            Timetable(turns, TIMES)


@pytest.mark.parametrize(
    "wrong", [{"propagation": 9}, {"lifetime": 299}, {"leeway": -1}, {"propagation": 10.0}, {"leeway": 8 * 86_400}]
)
def test_times_have_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="whole seconds"):
        Times(**wrong)


# the issuer ----------------------------------------------------------------------------------------------------------


def test_tokens_of_a_rotating_issuer_verify_all_through_its_rotations(path: Path) -> None:
    clock = [NOW]
    rotate(path, NOW, times=Times(propagation=10))
    ring = KeyRing(path, poll=0, clock=lambda: clock[0])
    issuer, verifier, signers = LocalIssuer(ring), TokenVerifier(ring, "agentguard", AUDIENCE), set()

    for second in range(200):
        clock[0] = NOW + second
        if second % 40 == 20:
            rotate(path, clock[0], "EdDSA" if second % 80 == 20 else "ES256")
        verifier.verify(minted(issuer, clock[0]), clock[0])
        signers.add(signing(ring, clock[0]))

    assert 6 == len(signers)
    assert isinstance(ring, Signers)
    assert isinstance(drive(ring.current(clock[0])), Signer)
    assert (issuer.suspends, issuer.waits, issuer.remote) == (False, False, False)


def test_the_issuer_publishes_what_verifiers_need_and_shows_its_folder(path: Path) -> None:
    rotate(path, time.time())
    rotate(path, time.time())
    issuer = LocalIssuer(KeyRing.from_folder(path))

    assert 2 == len(issuer.keys)
    assert f"<LocalIssuer agentguard <KeyRing {str(path)!r}>>" == repr(issuer)


def test_a_key_that_is_not_published_any_more_verifies_nothing(path: Path) -> None:
    rotate(path, NOW)
    token = minted(LocalIssuer(opened(path)), NOW)
    rotate(path, NOW + 10)

    with pytest.raises(TokenRejected, match="no known key"):
        TokenVerifier(opened(path, NOW + 5000), "agentguard", AUDIENCE).verify(token, NOW)


@pytest.mark.control("10 keys that were taken away sign nothing")
def test_a_running_issuer_signs_nothing_once_its_keys_were_taken_away(path: Path) -> None:
    rotate(path, NOW)
    ring = opened(path)
    issuer, kid = LocalIssuer(ring), signing(ring, NOW)
    (path / folder.FILE).unlink()

    with pytest.raises(CredentialUnavailable, match="cannot be read any more"):
        minted(issuer, NOW)
    with pytest.raises(Unavailable, match="cannot be read any more"):
        ring.published(NOW)
    assert ring.find(kid) is None


def test_it_signs_again_when_they_are_back(path: Path) -> None:
    rotate(path, NOW)
    issuer = LocalIssuer(opened(path))
    (path / folder.FILE).rename(path / "away")
    with pytest.raises(CredentialUnavailable):
        minted(issuer, NOW)

    (path / "away").rename(path / folder.FILE)

    assert minted(issuer, NOW)


def test_another_working_directory_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rotate(path, NOW).ring.timetable.turns[-1].public.kid
    monkeypatch.chdir(path.parent)
    ring = opened(Path(path.name))
    monkeypatch.chdir("/")
    assert first == signing(ring, NOW)


def test_what_a_slow_thread_found_before_a_rotation_is_not_kept_after_it(path: Path) -> None:
    slow: list[bool] = []

    class Interrupted(KeyRing):
        """Between two of its assignments a slower thread sets all that it found before."""

        def __setattr__(self, name: str, value: object) -> None:
            before: dict[str, object] = {key: vars(self)[key] for key in ("_held", "_stamp") if key in vars(self)}
            super().__setattr__(name, value)
            if name == "_held" and slow:
                slow.pop()
                vars(self).update(before)

    rotate(path, NOW)
    ring = Interrupted(path, poll=0, clock=lambda: NOW)
    slow.append(True)
    after = rotate(path, NOW + 60).ring.timetable.turns[-1].public.kid
    signing(ring, NOW + 60)
    assert not slow
    assert after == signing(ring, NOW + 5000)


def test_the_folder_is_looked_at_no_more_often_than_poll(path: Path) -> None:
    clock = [0.0]
    rotate(path, NOW)
    ring = KeyRing(path, poll=1.0, monotonic=lambda: clock[0])
    (path / folder.FILE).unlink()

    clock[0] = 0.9
    assert signing(ring, NOW)
    clock[0] = 1.0
    with pytest.raises(Unavailable):
        signing(ring, NOW)
    with pytest.raises(ConfigurationError, match="poll"):
        KeyRing(path, poll=6)


def test_a_clock_that_was_set_back_before_the_keys_signs_nothing_by_a_key_that_is_gone(path: Path) -> None:
    for after in (0, 10, 1000, 2000):
        ring = rotate(path, NOW + after).ring
    gone = next(turn for turn in ring.timetable.turns if turn.public.kid not in ring.private)

    with pytest.raises(Unavailable, match="check the clock"):
        signing(opened(path), gone.signs_from)


# the folder ----------------------------------------------------------------------------------------------------------


@posix
@pytest.mark.control("10 signing keys are private to their owner")
def test_the_folder_and_its_file_are_private_and_stay_so(path: Path) -> None:
    rotate(path, NOW)
    rotate(path, NOW + 1)

    assert 0o700 == stat.S_IMODE(path.stat().st_mode)
    assert {folder.FILE: 0o600, ".lock": 0o600} == {
        file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()
    }


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused_also_by_a_running_process(mode: int, path: Path) -> None:
    rotate(path, NOW)
    ring = opened(path)
    (path / folder.FILE).chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        opened(path)
    with pytest.raises(Unavailable, match="chmod 600"):
        signing(ring, NOW)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        rotate(path, NOW + 1)


@posix
def test_a_folder_that_others_can_write_is_refused(path: Path) -> None:
    rotate(path, NOW)
    ring = opened(path)
    path.chmod(0o770)

    for act in (lambda: opened(path), lambda: rotate(path, NOW + 1)):
        with pytest.raises(ConfigurationError, match="chmod 700"):
            act()
    with pytest.raises(Unavailable, match="chmod 700"):
        signing(ring, NOW)


def test_what_is_no_ring_is_refused_with_what_to_do_and_shows_no_key(path: Path, tmp_path: Path) -> None:
    rotate(path, NOW)
    good = json.loads((path / folder.FILE).read_text())
    (entry,), other = good["keys"], SigningKey.generate()
    foreign = {**entry, "private": other.to_pem().decode()}
    wrong: dict[str, Any] = {
        "is not what": [],
        "another version": {**good, "version": 2},
        "no keys": {**good, "keys": []},
        "more than 64": {**good, "keys": [entry] * 65},
        "earliest first": {**good, "keys": [entry, entry]},
        "no private key for its last turn": {**good, "keys": [{k: v for k, v in entry.items() if k != "private"}]},
        "of another public key": {**good, "keys": [foreign]},
        "no private key in PEM": {**good, "keys": [{**entry, "private": "canary"}]},
        "private or symmetric": {**good, "keys": [{**entry, "jwk": {**entry["jwk"], "d": "canary"}}]},
        "no whole number": {**good, "keys": [{**entry, "signs_from": 1.5}]},
        "write whole seconds": {**good, "times": {**good["times"], "propagation": 1}},
        "what `agentguard keys rotate`": {**good, "times": {"else": 1}},
    }

    for why, members in wrong.items():
        (path / folder.FILE).write_text(json.dumps(members))
        for act in (lambda: opened(path), lambda: rotate(path, NOW + 1)):
            with pytest.raises(ConfigurationError, match=why) as caught:
                act()
            assert "canary" not in str(caught.value)
            assert caught.value.__context__ is None
    for missing in (tmp_path / "missing", path / folder.FILE):
        with pytest.raises(ConfigurationError, match=r"agentguard keys rotate|no folder"):
            opened(missing)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_case_71_whatever_stands_in_the_file_is_told_and_nothing_is_raised(data: bytes | str) -> None:
    found = folder._parsed(
        data if isinstance(data, bytes) else b'{"version":1,"times":{},"keys":' + data.encode() + b"}"
    )

    assert isinstance(found, str)


def test_the_times_of_a_folder_stay(path: Path) -> None:
    rotate(path, NOW, times=TIMES)

    assert rotate(path, NOW + 1, times=TIMES).new is not None
    with pytest.raises(ConfigurationError, match="they stay"):
        rotate(path, NOW + 5000, times=Times(propagation=10))
    with pytest.raises(ConfigurationError, match="time"):
        rotate(path, float("nan"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made: No such file"):
        rotate(tmp_path / "missing" / "keys", NOW)
    with pytest.raises(ConfigurationError, match="'RS256'"):
        rotate(tmp_path / "keys", NOW, "RS256")


# crashes and other processes -----------------------------------------------------------------------------------------


def _die(*_: Any, **__: Any) -> None:
    os._exit(9)


def _dying_rotation(path: Path, step: str, count: int) -> None:
    calls, original = [0], getattr(os, step)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return _die() if calls[0] == count else original(*args, **kwargs)

    setattr(os, step, counted)
    rotate(path, NOW + 5000)
    os._exit(0)


@posix
@pytest.mark.control("10 a rotation that dies leaves a ring")
@pytest.mark.parametrize(
    ("step", "count"),
    [("open", 1), ("open", 2), ("open", 3), ("open", 4), ("fsync", 1), ("fsync", 2), ("replace", 1), ("close", 2)],
)
def test_a_rotation_that_is_killed_at_any_step_leaves_the_old_ring_or_the_new_one(
    step: str, count: int, path: Path
) -> None:
    rotate(path, NOW)
    old = opened(path).published(NOW)
    process = multiprocessing.get_context("fork").Process(target=_dying_rotation, args=(path, step, count))

    process.start()
    process.join(20)

    assert 9 == process.exitcode
    after = opened(path).published(NOW + 5000)
    assert len(after) in (1, 2)
    assert all(after.find(key["kid"]) for key in old.jwks()["keys"])
    rotate(path, NOW + 9000)
    assert 2 == len(opened(path).published(NOW + 9000))
    assert {folder.FILE, ".lock"} == {file.name for file in path.iterdir()}


def test_a_full_disk_leaves_the_old_ring_and_no_copy_of_a_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotate(path, NOW)
    before = (path / folder.FILE).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigurationError, match="No space left") as caught:
        rotate(path, NOW + 5000)

    assert caught.value.__context__ is None
    assert before == (path / folder.FILE).read_bytes()
    assert {folder.FILE, ".lock"} == {file.name for file in path.iterdir()}


def test_ring_that_was_written_and_is_not_durable_is_said_to_be_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(path, NOW)

    def failing(where: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "sync_folder", failing)
        with pytest.raises(ConfigurationError, match=r"the new ring is written.*Input/output error"):
            rotate(path, NOW + 5000)

    assert 2 == len(opened(path).published(NOW + 5000))
    assert {folder.FILE, ".lock"} == {file.name for file in path.iterdir()}


def _rotate_in_child(path: Path, results: Any) -> None:
    results.put(rotate(path, NOW + 5000).new is not None)


@posix
def test_of_many_processes_that_rotate_one_does_and_a_running_one_sees_it(path: Path) -> None:
    rotate(path, NOW)
    ring, context = opened(path), multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_rotate_in_child, args=(path, results)) for _ in range(6)]

    for process in processes:
        process.start()
    found = [results.get(timeout=20) for _ in processes]
    for process in processes:
        process.join(20)
    results.close()
    results.join_thread()

    assert 1 == sum(found)
    assert 2 == len(ring.published(NOW + 5000))


@posix
def test_a_rotation_waits_no_longer_than_it_says_for_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotate(path, NOW)
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0.1)

    with folder.locked(path):
        with pytest.raises(ConfigurationError, match="another process is rotating"):
            rotate(path, NOW + 5000)
    assert rotate(path, NOW + 5000).new is not None
