"""Tell how two memories of one model differ.

Example: ``python scripts/memory_diff.py yesterday.safetensors me.safetensors``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["memory", "diff", *sys.argv[1:]]))
