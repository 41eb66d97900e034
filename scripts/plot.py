"""Draw the curves of a run, from score files.

Example: ``python scripts/plot.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["plot", *sys.argv[1:]]))
