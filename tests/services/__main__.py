"""`python -m tests.services up`, `down` or `status`."""

from __future__ import annotations

import sys

from tests.services import stack
from tests.services.install import NotInstalled
from tests.services.processes import DidNotStart


def main() -> int:
    commands = {"up": stack.up, "down": stack.down, "status": stack.status}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print("usage: python -m tests.services up|down|status", file=sys.stderr)
        return 2
    try:
        return commands[sys.argv[1]]()
    except (DidNotStart, NotInstalled) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
