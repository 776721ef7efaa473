"""Two commits beside each other: their worktrees are gone afterwards, and an interval decides."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.compare import measure, verdict, worktrees
from bench.harness import summary
from bench.machine import ROOT, git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="two commits are compared, which needs git")

REVISIONS = {"base": "HEAD~1", "head": "HEAD"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits."""
    folder = tmp_path / "repository"
    folder.mkdir()
    said = ["-c", "user.name=Ann", "-c", "user.email=ann@bank.test", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], *([*said, "commit", "-q", "--allow-empty", "-m", str(n)] for n in range(2))):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def trees_of(repository: Path) -> list[str]:
    return git("worktree", "list", "--porcelain", folder=repository).split("\n\n")


def test_each_revision_gets_a_worktree_of_its_own(repository: Path) -> None:
    with worktrees(REVISIONS, repository) as trees:
        heads = {name: git("rev-parse", "HEAD", folder=tree) for name, tree in trees.items()}

    assert heads == {rev: git("rev-parse", name, folder=repository) for rev, name in REVISIONS.items()}


def test_worktrees_are_removed_whatever_happens(repository: Path) -> None:
    with pytest.raises(KeyboardInterrupt), worktrees(REVISIONS, repository) as trees:
        raise KeyboardInterrupt

    assert len(trees_of(repository)) == 1
    assert not any(tree.parent.exists() for tree in trees.values())


@pytest.mark.parametrize("revision", ["no-such-branch", "--help", ""])
def test_revision_that_names_no_commit_is_refused(repository: Path, revision: str) -> None:
    with pytest.raises(SystemExit, match="no commit is named"), worktrees({"base": revision}, repository):
        pass

    assert len(trees_of(repository)) == 1


@pytest.mark.parametrize(
    ("ratios", "said"),
    [([1.2] * 9, "SLOWER"), ([0.8] * 9, "faster"), ([1.0] * 9, "the same, within 5 %"),
     ([0.9, 1.2] * 5, "cannot tell; more rounds")],
)  # fmt: skip
def test_interval_decides(ratios: list[float], said: str) -> None:
    assert verdict(summary(ratios)) == said


def test_pairs_of_processes_that_disagree_decide_nothing() -> None:
    assert verdict(summary(*([0.9] * 40, [1.1] * 40, [1.0] * 40, [1.12] * 40))) == "cannot tell; more rounds"
    assert verdict(summary(*([0.9] * 40, [0.91] * 40, [0.88] * 40, [0.92] * 40))) == "faster"


@pytest.mark.slow
def test_two_processes_are_measured_in_turn() -> None:
    found = measure({"base": ROOT, "head": ROOT}, "call", rounds=2, pairs=1)

    assert sorted(found) == ["control", "denied_call", "full_call", "reused_lease"]
    assert all(ratio.median > 0 for ratio in found.values())
