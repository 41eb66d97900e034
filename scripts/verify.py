"""Read scored texts again, and tell whether every loss still holds.

Example: ``python scripts/verify.py runs/wikitext-2-small --tokens 5000``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["verify", *sys.argv[1:]]))
