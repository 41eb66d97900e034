"""Read texts made to hurt a memory by level 1, by a rule and by both mixed.

Example: ``python scripts/hostile.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["hostile", *sys.argv[1:]]))
