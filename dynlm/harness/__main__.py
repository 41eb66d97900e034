"""The command line of lm-evaluation-harness, which then knows the model ``dynlm``.

The harness finds no models of other packages by itself. All words are its own::

    python -m dynlm.harness --model dynlm --model_args run=runs/demo,rule=rms --tasks wikitext
"""

from __future__ import annotations

import sys

from dynlm.errors import UserError
from dynlm.runtime.text import escape_for_streams, printable


def main() -> int:
    """Run the command line of the harness; 2: an error that the user can correct, printed as one line."""
    escape_for_streams()
    try:
        try:
            from lm_eval.__main__ import cli_evaluate
        except ImportError as error:
            what = f"lm-evaluation-harness cannot be imported ({error})"
            raise UserError(what, do="pip install dynlm[harness]") from error
        import dynlm.harness.model  # noqa: F401  # registers it

        cli_evaluate()
    except UserError as error:
        print(f"dynlm: error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
