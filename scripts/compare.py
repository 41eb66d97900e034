"""Print one table of what the levels cost and gain, from score files.

Example: ``python scripts/compare.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["compare", *sys.argv[1:]]))
