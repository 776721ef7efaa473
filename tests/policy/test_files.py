"""Policy files change without a restart: as a whole or not at all, and what is wrong is said loudly."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from agentguard.errors import ConfigurationError
from agentguard.policy.files import PolicyFile, PolicyFiles, refreshed, version_of
from tests.loopback import Clock


def joined(files: Sequence[PolicyFile]) -> str:
    text = "|".join(file.text for file in files)
    if "bad" in text:
        raise ConfigurationError("a.pol: line 1 is bad")
    if "bug" in text:
        raise ZeroDivisionError
    return text


def of(path: Path, clock: Clock, **options: float) -> PolicyFiles[str]:
    return PolicyFiles(path, joined, suffixes=(".pol",), clock=clock, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.pol").write_text("one")
    (tmp_path / "note.txt").write_text("not read")
    return tmp_path


def write(path: Path, text: str) -> None:
    """Replace a file as deployments do: the new one is moved over the old one."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def turns(files: PolicyFiles[str], clock: Clock, count: int = 2) -> str:
    for _ in range(count):
        clock.pass_by(1)
        files.refresh()
    return files.loaded.value


def test_change_is_taken_once_it_looked_the_same_twice(folder: Path) -> None:
    clock = Clock()
    files = of(folder, clock)
    before = files.loaded.version
    write(folder / "a.pol", "two")
    assert files.refresh().value == "one"
    assert turns(files, clock, 1) == "one"
    assert turns(files, clock, 1) == "two"
    assert files.loaded.version != before
    assert files.loaded.version.startswith("sha256:")


def test_folder_that_is_being_written_is_not_read_half(folder: Path) -> None:
    clock = Clock()
    files = of(folder, clock)
    for part in ("b", "c", "d"):
        write(folder / f"{part}.pol", part)
        assert turns(files, clock, 1) == "one"
    assert turns(files, clock, 1) == "one|b|c|d"


def test_file_that_was_added_removed_or_changed_within_a_second_counts(folder: Path) -> None:
    clock = Clock()
    files = of(folder, clock)
    for text in ("uno", "due", "tre"):
        write(folder / "a.pol", text)
        assert turns(files, clock) == text
    write(folder / "b.pol", "x")
    assert turns(files, clock) == "tre|x"
    (folder / "a.pol").unlink()
    assert turns(files, clock) == "x"


@pytest.mark.control("2 bad policy file keeps the old policy")
@pytest.mark.parametrize("text", ["bad", "bug", "\ud800"], ids=["wrong", "raises", "not UTF-8"])
def test_bad_file_keeps_the_old_policy_and_says_so_once(
    folder: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    files = of(folder, clock)
    version = files.loaded.version
    (folder / "a.pol").write_bytes(text.encode("utf-8", "surrogatepass"))
    with caplog.at_level(logging.ERROR, "agentguard"):
        assert turns(files, clock, 10) == "one"
    assert files.loaded.version == version
    assert files.loaded.problem
    assert len(caplog.records) == 1
    assert "NOT reloaded" in caplog.text
    with pytest.raises(ConfigurationError):
        files.reload()
    write(folder / "a.pol", "three")
    assert turns(files, clock) == "three"
    assert files.loaded.problem == ""


@pytest.mark.control("2 vanished policy keeps the old policy")
def test_folder_that_is_gone_keeps_the_old_policy(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    files = of(folder, clock)
    (folder / "a.pol").unlink()
    with caplog.at_level(logging.ERROR, "agentguard"):
        assert turns(files, clock, 5) == "one"
    assert files.loaded.problem
    assert len(caplog.records) == 1


def test_old_text_that_comes_back_ends_the_problem(folder: Path) -> None:
    clock = Clock()
    files = of(folder, clock)
    write(folder / "a.pol", "bad")
    turns(files, clock)
    write(folder / "a.pol", "one")
    assert turns(files, clock) == "one"
    assert files.loaded.problem == ""


def test_reload_takes_a_change_at_once(folder: Path) -> None:
    files = of(folder, Clock())
    write(folder / "a.pol", "two")
    assert files.reload().value == "two"


@pytest.mark.control("2 policies that change while they are read are read again")
def test_file_that_changes_while_the_others_are_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "b.pol", "old forbid")
    files = of(folder, Clock())
    plain, changes = Path.read_bytes, ["new permit"]

    def read_bytes(path: Path) -> bytes:
        data = plain(path)
        if path.name == "b.pol" and changes:
            write(folder / "a.pol", "new forbid")
            write(folder / "b.pol", changes.pop())
        return data

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    write(folder / "b.pol", "half")
    assert files.reload().value == "new forbid|new permit"


def test_folder_that_never_stands_still_keeps_the_old_policy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = of(folder, Clock())
    plain, numbers = Path.read_bytes, iter(range(100))

    def read_bytes(path: Path) -> bytes:
        write(path, f"v{next(numbers)}")
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    write(folder / "a.pol", "two")
    with pytest.raises(ConfigurationError, match="changes while"):
        files.reload()
    assert files.loaded.value == "one"


def test_nobody_looks_before_the_interval_has_passed(folder: Path) -> None:
    clock = Clock()
    files = of(folder, clock, interval=60)
    write(folder / "a.pol", "two")
    clock.pass_by(59)
    assert not files.due
    assert files.refresh().value == "one"
    clock.pass_by(-1000)
    assert files.due


def test_one_file_may_be_named(folder: Path) -> None:
    clock = Clock()
    files = of(folder / "a.pol", clock)
    write(folder / "a.pol", "two")
    assert turns(files, clock) == "two"


def test_link_that_is_moved_to_another_folder_is_a_change(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.pol").write_text(name)
    link, clock = tmp_path / "current", Clock()
    link.symlink_to("v1")
    files = of(link, clock)
    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", link)
    assert turns(files, clock) == "v2"


@pytest.mark.skipif(os.name != "posix", reason="modes and users of POSIX")
def test_subfolder_that_cannot_be_listed_any_more_takes_no_forbid_away() -> None:
    # Not in tmp_path, which another user cannot enter: root lists whatever its mode says.
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), Clock()
        (folder / "forbids").mkdir()
        (folder / "a.pol").write_text("permit")
        (folder / "forbids" / "a.pol").write_text("forbid")
        with as_nobody(folder):
            files = of(folder, clock)
            (folder / "forbids").chmod(0)
            assert turns(files, clock) == "permit|forbid"
            assert files.loaded.problem == f"{folder.name}: {folder.name} cannot be listed (PermissionError)"
            with pytest.raises(ConfigurationError, match="cannot be listed"):
                of(folder, clock)
            (folder / "forbids").chmod(0o700)
            (folder / "forbids" / "a.pol").write_text("forbid more")
            assert turns(files, clock) == "permit|forbid more"
            assert not files.loaded.problem


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_policies_behind_a_link_to_a_folder_count(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared, clock = tmp_path_factory.mktemp("shared"), Clock()
    (shared / "forbid.pol").write_text("forbid")
    (folder / "team").symlink_to(shared)
    files = of(folder, clock)
    assert files.loaded.value == "one|forbid"
    write(shared / "forbid.pol", "forbid more")
    assert turns(files, clock) == "one|forbid more"


def test_link_to_a_file_that_is_gone_is_a_mistake_and_keeps_the_old_policy(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target, clock = tmp_path_factory.mktemp("shared") / "forbid.pol", Clock()
    target.write_text("forbid")
    (folder / "b.pol").symlink_to(target)
    files = of(folder, clock)
    target.unlink()
    assert turns(files, clock) == "one|forbid"
    assert files.loaded.problem.endswith("b.pol is no file, or a link to none")
    with pytest.raises(ConfigurationError, match=r"b\.pol is no file"):
        of(folder, clock)
    (folder / "b.pol").unlink()
    assert turns(files, clock) == "one"


def test_lock_of_an_editor_is_no_policy(folder: Path) -> None:
    (folder / ".#a.pol").symlink_to("ann@host.4711")
    assert of(folder, Clock()).loaded.value == "one"


def test_links_in_a_circle_are_a_mistake(folder: Path) -> None:
    (folder / "again").symlink_to(".")
    with pytest.raises(ConfigurationError, match="again is a link to a folder that holds it"):
        of(folder, Clock())


def test_volume_of_kubernetes_counts_each_file_once_and_is_swapped_as_a_whole(tmp_path: Path) -> None:
    volume, clock = tmp_path / "volume", Clock()
    volume.mkdir()
    for version in ("one", "two"):
        (volume / f"..{version}").mkdir()
        (volume / f"..{version}" / "a.pol").write_text(version)
    (volume / "..data").symlink_to("..one")
    (volume / "a.pol").symlink_to("..data/a.pol")
    files = of(volume, clock)
    assert files.loaded.value == "one"
    (volume / "..data_tmp").symlink_to("..two")
    os.replace(volume / "..data_tmp", volume / "..data")
    assert turns(files, clock) == "two"


def test_what_failed_for_lack_of_memory_or_files_is_tried_again_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, left = Clock(), [1]

    def short(files: Sequence[PolicyFile]) -> str:
        if not left[0]:
            raise MemoryError
        return joined(files)

    files = PolicyFiles(folder, short, suffixes=(".pol",), clock=clock)
    left[0] = 0
    write(folder / "a.pol", "two")
    with caplog.at_level(logging.ERROR, "agentguard"):
        assert turns(files, clock, 5) == "one"
    assert files.loaded.problem
    assert len(caplog.records) == 1
    left[0] = 1
    assert turns(files, clock) == "two"
    assert not files.loaded.problem


def test_another_working_directory_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    clock = Clock()
    files = of(Path(folder.name), clock)
    monkeypatch.chdir("/")
    write(folder / "a.pol", "two")
    assert turns(files, clock) == "two"


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_load_is_a_mistake_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no policy"):
        of(tmp_path / name, Clock())


def test_readers_never_wait_for_a_reload_and_see_old_or_new(folder: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(files: Sequence[PolicyFile]) -> str:
        text = joined(files)
        if text == "two":
            begun.set()
            go_on.wait(5)
        return text

    clock = Clock()
    files = PolicyFiles(folder, slow, suffixes=(".pol",), clock=clock)
    write(folder / "a.pol", "two")
    thread = threading.Thread(target=lambda: turns(files, clock))
    thread.start()
    assert begun.wait(5)
    clock.pass_by(10)
    assert files.refresh().value == "one"
    go_on.set()
    thread.join(5)
    assert files.loaded.value == "two"


@pytest.mark.anyio
async def test_look_does_not_block_the_event_loop(folder: Path) -> None:
    threads: list[int] = []

    def noting(files: Sequence[PolicyFile]) -> str:
        threads.append(threading.get_ident())
        return joined(files)

    clock = Clock()
    files = PolicyFiles(folder, noting, suffixes=(".pol",), clock=clock)
    write(folder / "a.pol", "two")
    for _ in range(2):
        clock.pass_by(1)
        with anyio.fail_after(5):
            await refreshed(files)
    assert files.loaded.value == "two"
    assert threads[1:] != [threading.get_ident()]


def test_version_tells_names_and_contents_apart() -> None:
    one, two = PolicyFile("a", "b"), PolicyFile("ab", "")
    assert len({version_of(files) for files in ([one], [two], [one, two], [])}) == 4


@pytest.mark.parametrize("interval", [-1, float("nan"), 3601])
def test_interval_is_checked(folder: Path, interval: float) -> None:
    with pytest.raises(ConfigurationError):
        of(folder, Clock(), interval=interval)
