"""How the tests are dealt out where they run in several processes at once (`pytest -n 2`)."""

from __future__ import annotations

from typing import Any, Final

from xdist.scheduler.loadscope import LoadScopeScheduling  # type: ignore[import-untyped]  # it ships no types

SERVICES: Final = "tests/services"
# What takes longest as a whole goes first: one process would end with it while the others have nothing left to do.
LONGEST: Final = (
    SERVICES, "tests/bench/test_intents.py", "tests/bench/test_agentdojo.py", "tests/adversarial/test_crash.py",
    "tests/test_handover.py", "tests/test_examples.py", "tests/approval/test_rendering.py",
    "tests/adversarial/test_fuzz.py", "tests/intent/test_properties.py", "tests/identity/test_spiffe.py",
    "tests/credentials/test_folded.py", "tests/intent/test_oracle.py", "tests/audit/test_events.py",
)  # fmt: skip


class Places(LoadScopeScheduling):  # type: ignore[misc]  # so it is Any
    """Keeps the tests of a file in one process, and in one all that use the servers: they share accounts and tables."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return SERVICES if file.startswith(f"{SERVICES}/") else file

    def _assign_work_unit(self, node: Any) -> None:
        for place in LONGEST:
            if place in self.workqueue:
                self.workqueue.move_to_end(place, last=False)
                break
        super()._assign_work_unit(node)
