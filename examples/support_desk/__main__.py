"""`python -m examples.support_desk`: run the demo, show it, and fail if anything in it is not as claimed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run the story; 0 if every claim held."""
    parser = argparse.ArgumentParser(prog="python -m examples.support_desk", description=__doc__)
    parser.add_argument("--model", default="", metavar="NAME", help="a real model, such as openai:gpt-5-mini")
    model = parser.parse_args().model
    os.environ["LANGSMITH_TRACING"] = "false"  # this demo sends nothing anywhere

    from examples.support_desk.claims import broken_claims
    from examples.support_desk.screen import show
    from examples.support_desk.script import real
    from examples.support_desk.story import tell

    models = real(model) if model else None
    story = tell(Path(tempfile.mkdtemp(prefix="agentguard-demo-")), models)
    failed = broken_claims(story, obeyed=not model)
    if not failed:
        show(story, model)
    for claim in failed:
        print(f"FAILED: {claim}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
