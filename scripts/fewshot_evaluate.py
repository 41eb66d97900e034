"""Judge a few-shot learner on new tasks.

Example: ``python scripts/fewshot_evaluate.py runs/fewshot/cubic-maml``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["fewshot", "evaluate", *sys.argv[1:]]))
