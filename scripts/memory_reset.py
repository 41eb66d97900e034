"""Make a memory file forget all that was read.

Example: ``python scripts/memory_reset.py me.safetensors``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["memory", "reset", *sys.argv[1:]]))
