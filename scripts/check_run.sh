#!/usr/bin/env bash
# Check a run: does the protocol hold, do its scores still hold, and what do texts made to hurt cost?
#
#   scripts/check_run.sh RUN
#
# Needs:  a trained run with tuned rates and score files, such as runs/demo.
# Takes:  a few minutes on two cores.
# Exit code 1 if a check fails.
set -euo pipefail
run=${1:?usage: check_run.sh RUN}

# No loss depends on a later token; with all rates zero each rule equals level 1; two sittings equal one.
dynlm check "$run" --all

# The first 2,000 tokens of each score file, read again: bit for bit equal on the same machine and versions.
dynlm verify "$run" --tokens 2000

# A no-regret mixture bounds what the memory may cost, whatever the text.
dynlm stress "$run" --memory.rule rms --tokens 2000
