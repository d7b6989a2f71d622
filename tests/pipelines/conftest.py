"""Puts the toy stages where this process and the stages' processes find them."""

import os
import sys
from pathlib import Path

TOYS = str(Path(__file__).parent / "toy_stages")
if TOYS not in sys.path:
    sys.path.insert(0, TOYS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TOYS, os.environ.get("PYTHONPATH")]))
