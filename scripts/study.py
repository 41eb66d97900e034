"""Tune every arm alike, read other articles by each, and tell which is better.

Example: ``python scripts/study.py --config configs/study-wikitext-2.yaml``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["study", *sys.argv[1:]]))
