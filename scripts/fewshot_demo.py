"""Few-shot learning in two minutes: train, judge and draw.

Example: ``python scripts/fewshot_demo.py``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["fewshot", "demo", *sys.argv[1:]]))
