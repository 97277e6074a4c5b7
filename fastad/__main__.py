"""`python -m fastad` is `fastad`."""

import sys

from fastad.cli import main

if __name__ == "__main__":
    sys.exit(main())
