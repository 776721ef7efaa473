"""Runs every measurement, one after the other: `make bench`."""

from __future__ import annotations

import subprocess
import sys

BENCHES = (
    ("bench.call",),
    ("bench.intent",),
    ("bench.remote",),
    ("bench.agentdojo", "--guard", "none"),
    ("bench.agentdojo", "--guard", "tools"),
    ("bench.agentdojo", "--suites", "workspace,banking", "--guard", "intents", "--synthetic"),
)
# These need the servers of `make services-up`, or minutes; run them by name: bench.crash, bench.soak,
# bench.stop, bench.scale.


def main() -> int:
    codes = []
    for module, *options in BENCHES:
        print(f"\n--- {module} {' '.join(options)}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", module, *options], check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
