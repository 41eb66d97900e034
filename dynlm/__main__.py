"""The command line, as ``python -m dynlm``."""

from dynlm.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
