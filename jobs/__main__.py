"""`python -m jobs`: the same as the command `sailloft`."""

from __future__ import annotations

import sys

from sailloft import main

if __name__ == "__main__":
    sys.exit(main())
