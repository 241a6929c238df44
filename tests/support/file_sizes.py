"""Fails when a file of the project has grown past what one can read in one sitting: `python -m`."""

import subprocess
import sys
from pathlib import Path

LIMIT = 600
# Written by tools, read by tools.
EXEMPT = {"requirements.lock"}


def main() -> int:
    """Name every file above the limit; 1 when there is one."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    too_long = 0
    for name in listing.stdout.splitlines():
        path = Path(name)
        if name in EXEMPT or not path.is_file():
            continue
        lines = path.read_bytes().count(b"\n")
        if lines > LIMIT:
            print(f"{name}: {lines} lines, at most {LIMIT} are allowed: split it")
            too_long += 1
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
