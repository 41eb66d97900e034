"""Draw evaluated few-shot runs and put them into a table.

Example: ``python scripts/fewshot_show.py runs/fewshot/cubic-maml``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["fewshot", "show", *sys.argv[1:]]))
