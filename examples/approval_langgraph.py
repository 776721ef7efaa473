"""A LangGraph agent pauses for a person, its process ends, and another one goes on with exactly what was approved.

Run it: `python examples/approval_langgraph.py`. It starts the agent's processes (`desk/agent.py`) itself, and answers
with `agentguard approvals list | show | approve`, as a person would in between.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = """\
version: 1
agents: {desk: {owners: {business: ann@bank.test}, purpose: answers tickets}}
audit: {dir: audit, pseudonym_key: {file: secret}}
state: {sqlite: state.db, key: {file: secret}}  # questions and parked tasks outlive a process here
approval: {later: true, expires: 10m, not_by: [subject, agent]}
"""


def process(part: str, folder: Path) -> None:
    """Run the agent in a process of its own."""
    agent = Path(__file__).with_name("desk") / "agent.py"
    sys.stdout.flush()
    subprocess.run([sys.executable, str(agent), part, str(folder)], check=True, timeout=120)


def approvals(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "agentguard", "approvals", *arguments]
    config = ["--config", str(folder / "agentguard.yaml")]
    return subprocess.run([*command, *config], check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


def approve(folder: Path) -> None:
    """Look at the question, and approve it by the code that it ends with."""
    question = approvals(folder, "list").split()[0]
    shown = approvals(folder, "show", question)
    print(*(f"  | {line}" for line in shown.splitlines()), sep="\n")
    code = next(line.split()[1] for line in shown.splitlines() if line.startswith("code:"))
    print(f"  {approvals(folder, 'approve', question, '--code', code).splitlines()[-1]}")


def main(folder: Path) -> None:
    (folder / "agentguard.yaml").write_text(CONFIG)
    (folder / "secret").write_text("0123456789abcdef" * 4)  # in earnest: openssl rand -hex 32
    (folder / "secret").chmod(0o600)
    print("the agent works, in a process that then ends:")
    process("begin", folder)
    print("another process, before anybody answered:")
    process("go_on", folder)
    print("a person looks at the question:")
    approve(folder)
    print("another process; its next call has other arguments:")
    process("go_on", folder)
    print(f"  open: {approvals(folder, 'list').splitlines()[-1]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
