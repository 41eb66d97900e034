"""Tell what a few-shot task distribution holds.

Example: ``python scripts/fewshot_tasks.py``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["fewshot", "tasks", *sys.argv[1:]]))
