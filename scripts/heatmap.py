"""Draw a passage's tokens by what the higher level gains on each, from score files.

Example: ``python scripts/heatmap.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["heatmap", *sys.argv[1:]]))
