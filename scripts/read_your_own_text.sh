#!/usr/bin/env bash
# Let a trained run read texts of yours, and keep what it learned in a memory file.
#
#   scripts/read_your_own_text.sh RUN MEMORY TEXT...
#
# Needs:  RUN, a trained run with tuned rates, such as runs/demo.
# Makes:  MEMORY, a safetensors file about as large as the model. The run itself does not change.
# Takes:  seconds; about 4,000 tokens a second on two cores with two million parameters.
# Run again with other texts, the memory goes on from where it was.
set -euo pipefail
usage="usage: read_your_own_text.sh RUN MEMORY TEXT..."
run=${1:?$usage} memory=${2:?$usage}
shift 2
: "${1:?$usage}"

dynlm read "$run" --memory "$memory" --memory.rule rms "$@"
dynlm memory show "$memory"

# The model continues a prompt with what it has learned; neither the run nor the memory changes.
dynlm generate "$run" --memory "$memory" --prompt 'The' --tokens 40
