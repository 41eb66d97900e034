"""Run the main job from end to end on the embedded corpus.

Example: ``python scripts/demo.py``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["demo", *sys.argv[1:]]))
