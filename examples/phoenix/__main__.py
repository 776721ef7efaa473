"""`python -m examples.phoenix FOLDER`: run the support desk, send its trace to a Phoenix of its own, take pictures.

Optional, and in no test: the first run installs Phoenix (650 MB) into `.services/phoenix`. It needs Linux and Chromium.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

VENV: Final = Path(__file__).parents[2] / ".services" / "phoenix"
PHOENIX: Final = "arize-phoenix==20.26.1"


def main() -> int:
    """Take the pictures; 0 if they are there."""
    parser = argparse.ArgumentParser(prog="python -m examples.phoenix", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the pictures go")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _install()
    with tempfile.TemporaryDirectory(prefix="agentguard-phoenix-") as work:
        trace = Path(work, "trace.bin")
        trace.write_bytes(_story(Path(work, "story")))
        # Phoenix's gRPC port listens on every interface whatever it is told, so it gets a network with loopback alone.
        alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
        looking = Path(__file__).with_name("look.py")
        return subprocess.run([*alone, sys.executable, looking, VENV, work, trace, folder], check=False).returncode


def _install() -> None:
    if (VENV / "bin" / "phoenix").exists():
        return
    print(f"installing {PHOENIX} into {VENV.relative_to(Path.cwd()) if VENV.is_relative_to(Path.cwd()) else VENV}")
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin" / "pip", "install", "--quiet", PHOENIX], check=True)


def _story(folder: Path) -> bytes:
    """Run the support desk; return its trace as an OTLP request."""
    os.environ["LANGSMITH_TRACING"] = "false"  # this example sends nothing anywhere
    from examples.support_desk.story import tell

    folder.mkdir()
    spans = tell(folder).spans
    # The encoder comes with Phoenix; everything else that both have is already imported from here.
    sys.path.extend(str(path) for path in VENV.glob("lib/python3*/site-packages"))
    encoder = importlib.import_module("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    request: bytes = encoder.encode_spans(spans).SerializeToString()
    return request


if __name__ == "__main__":
    sys.exit(main())
