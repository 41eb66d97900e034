"""Meta-train a few-shot learner.

Example: ``python scripts/fewshot_train.py --config configs/fewshot/cubic-maml.yaml``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["fewshot", "train", *sys.argv[1:]]))
