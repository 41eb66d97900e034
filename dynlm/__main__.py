"""The command line, as ``python -m dynlm``."""

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
