"""Search the rates of the hand-made rule on articles that no figure is reported on.

Example: ``python scripts/tune.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["tune", *sys.argv[1:]]))
