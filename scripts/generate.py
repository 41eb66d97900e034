"""Write on from a prompt with a model that goes on learning.

Example: ``python scripts/generate.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["generate", *sys.argv[1:]]))
