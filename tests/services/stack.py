"""All servers together: up, down, status. State lives in `.services/`; sockets and data in a short temporary folder."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.services import endpoints, install, processes, servers
from tests.services.endpoints import STATE, Services

FOLDER_PREFIX = "agentguard-services-"
SOCKET_PATH_LIMIT = 107
LONGEST_SOCKET_NAME = len("/pg/socket/.s.PGSQL.65535.lock")


def up() -> int:
    """Start what does not answer yet; do nothing where everything does."""
    began = time.monotonic()
    with _locked():
        services = endpoints.load()
        if services is not None and services.digest == digest() and all(answers(services).values()):
            print("the servers are up already")
            return 0
        # What is half up is made whole by starting anew: its parts know each other's keys and addresses.
        _stop()
        install.install()
        _start()
    print(f"up in {time.monotonic() - began:.1f} s; see {endpoints.FILE.relative_to(endpoints.ROOT)}")
    return 0


def down() -> int:
    """Stop every process that `up` started, and no other; remove what it left outside of `.services/`."""
    if STATE.exists():
        with _locked():
            _stop()
    print("the servers are down")
    return 0


def status() -> int:
    """Say which servers answer; 0 if all do."""
    services = endpoints.load()
    if services is None:
        print("the servers are down")
        return 1
    found = answers(services)
    for name, up in found.items():
        print(f"{name:30} {'up' if up else 'DOES NOT ANSWER'}")
    return 0 if all(found.values()) else 1


def _start() -> None:
    for part in (processes.LOGS, processes.PIDS, STATE / "config", STATE / "keys", STATE / "workload_api"):
        part.mkdir(mode=0o700, exist_ok=True)
    folder = _short_folder()
    servers.prepare_authorization_servers()
    pool = ThreadPoolExecutor(7)
    try:
        _start_in(folder, pool)
    except BaseException:
        processes.given_up.set()
        processes.stop(processes.recorded())  # who waits for an answer sees the process end, and stops waiting
        pool.shutdown()
        _stop()  # and what was only just being started
        raise
    pool.shutdown()


def _start_in(folder: Path, pool: ThreadPoolExecutor) -> None:
    postgres = pool.submit(servers.start_postgres, folder)
    bao = pool.submit(servers.start_bao, folder)
    plain = pool.submit(servers.start_authorization_server, "authorization_server", dpop_nonce=False)
    nonce = pool.submit(servers.start_authorization_server, "authorization_server_nonce", dpop_nonce=True)
    workload_api = pool.submit(servers.start_workload_api, folder)
    cerbos = pool.submit(servers.start_cerbos, folder)
    collector = pool.submit(servers.start_collector)
    endpoints.save(
        Services(
            digest=digest(),
            folder=folder,
            postgres=postgres.result(),
            bao=bao.result(),
            authorization_server=plain.result(),
            authorization_server_nonce=nonce.result(),
            workload_api=workload_api.result(),
            cerbos=cerbos.result(),
            collector=collector.result(),
            processes=processes.recorded(),
        )
    )


def _stop() -> None:
    processes.stop(processes.recorded())
    endpoints.FILE.unlink(missing_ok=True)
    link = STATE / "folder"
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def _short_folder() -> Path:
    """A folder whose sockets' paths fit into 107 bytes. A link in `.services/` tells `down` about it from the start."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    if len(str(folder)) + LONGEST_SOCKET_NAME > SOCKET_PATH_LIMIT:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir="/tmp"))
    folder.chmod(0o711)  # PostgreSQL, under another user, passes through to its own folder
    (STATE / "folder").symlink_to(folder)
    return folder


def answers(services: Services) -> dict[str, bool]:
    """Which servers answer now, as the ones that were started."""
    return {
        "postgres": servers.postgres_answers(services.postgres),
        "bao": servers.bao_answers(services.bao),
        "authorization_server": servers.authorization_server_answers(services.authorization_server),
        "authorization_server_nonce": servers.authorization_server_answers(services.authorization_server_nonce),
        "workload_api": servers.workload_api_answers(services.workload_api),
        "cerbos": servers.cerbos_answers(services.cerbos),
        "collector": servers.collector_answers(services.collector),
    }


def digest() -> str:
    """Changes with the servers' own code and with the locks, so that `up` after a pull starts what was pulled."""
    here = Path(__file__).parent
    parts = [here / "servers.py", here / "workload_api.py", here / "endpoints.py", install.LOCK]
    parts += [*sorted(install.NPM_SOURCE.glob("*.mjs")), install.NPM_SOURCE / "package-lock.json"]
    parts += sorted((here / "cerbos").glob("*.yaml"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


@contextmanager
def _locked() -> Iterator[None]:
    """One `up` or `down` at a time; the lock goes with the process."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
