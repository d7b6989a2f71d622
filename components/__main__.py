"""`python -m components STAGE ...`: the one entry point of every container."""

import sys

from components.entrypoints.main import main

if __name__ == "__main__":
    sys.exit(main())
