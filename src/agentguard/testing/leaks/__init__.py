"""Finding leaks: put canaries where secrets are, run, and search everything that the run left behind.

`sweep` watches a run, `Sweep` takes what you give it, and `assert_no_leaks` looks at single values.
"""

from __future__ import annotations

from agentguard.testing.leaks.sweep import Leak, Sweep, assert_no_leaks, sweep

__all__ = ["Leak", "Sweep", "assert_no_leaks", "sweep"]
