"""Fuzz every target, guided by coverage: `python -m tests.adversarial.fuzz.atheris_target [libFuzzer options] CORPUS`.

The first byte of an input says which target the rest is for, so that one process fuzzes them all. It ends with an error
on the first input that makes a parser raise anything but our own typed errors, or hang.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]  # it has no types, and need not be installed

with atheris.instrument_imports(include=["agentguard"]):
    from tests.adversarial.fuzz.targets import TARGETS

_RUNS = tuple(target.run for target in TARGETS.values())


def run(data: bytes) -> None:
    """Give the rest to the target that the first byte names."""
    _RUNS[data[0] % len(_RUNS) if data else 0](data[1:])


def main() -> None:
    """Run until the options say that it is enough."""
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
