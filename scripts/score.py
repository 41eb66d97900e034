"""Read articles and write each token's loss.

Example: ``python scripts/score.py runs/wikitext-2-small --memory.rule rms``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["score", *sys.argv[1:]]))
