"""The serving container's program: python -m components.shared.serving [--config FILE] [--host HOST] [--port PORT]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.contracts.errors import program
from components.shared.serving.serve import serve_router
from components.shared.storage.paths import configs_root


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Serve the router until told to stop; a failure is one line on standard error."""
    p = argparse.ArgumentParser(prog="python -m components.shared.serving", description="Serve the router.")
    p.add_argument(
        "--config", type=Path, default=configs_root() / "serving" / "router.yaml", help="the router's YAML file"
    )
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=8080)
    arguments = p.parse_args(argv)
    serve_router(arguments.config, arguments.host, arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
