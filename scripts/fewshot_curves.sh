#!/usr/bin/env bash
# Few-shot regression: a random start, MAML and Reptile on cubics, then on sinusoids.
#
#   scripts/fewshot_curves.sh
#
# Needs:  nothing.
# Makes:  runs/fewshot/cubic-* and sinusoid-*; tables, pictures and an animation in runs/fewshot/figures-*.
# Takes:  about 5 minutes of processor time for training (`make fewshot-demo` shows the same in two minutes).
# A training that was stopped goes on from its newest checkpoint.
set -euo pipefail

for task in cubic sinusoid; do
  for learner in random maml reptile; do
    dynlm fewshot train --config fewshot/$task-$learner
    dynlm fewshot evaluate runs/fewshot/$task-$learner
  done
  dynlm fewshot show runs/fewshot/$task-* --out runs/fewshot/figures-$task
done
