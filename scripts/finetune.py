"""Train a run's static parameters further while a rule reads with them.

Example: ``python scripts/finetune.py runs/wikitext-2-small --memory.rule rms``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["finetune", *sys.argv[1:]]))
