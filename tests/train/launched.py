"""``dynlm`` as a launcher starts it, in another precision, and with a process that is stopped, killed or held up.

    launched.py '{"dtype": "float64", "signal": 9, "step": 5, "ranks": [1]}' VERB ...

After so many steps of an optimiser the processes of these ranks send themselves the signal; without one they hang.
"""

import itertools
import json
import os
import signal
import sys
import time

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from dynlm.cli.main import main


def signalled(told: dict[str, object]) -> None:
    """Have the optimisers' steps counted, and the signal sent."""
    steps = itertools.count(1)

    def after_step(*_: object) -> None:
        if next(steps) == told["step"]:
            if "signal" not in told:
                # Else the launcher would wait half a minute for it to see to SIGTERM.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(600)
            os.kill(os.getpid(), told["signal"])  # type: ignore[arg-type]

    register_optimizer_step_post_hook(after_step)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    torch.set_default_dtype(getattr(torch, told.get("dtype", "float32")))
    if int(os.environ.get("RANK", "0")) in told.get("ranks", []):
        signalled(told)
    raise SystemExit(main(sys.argv[2:]))
