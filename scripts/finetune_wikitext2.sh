#!/usr/bin/env bash
# First-order MAML on a language model: train the static parameters further for being read with dynamic evaluation.
#
#   scripts/finetune_wikitext2.sh
#
# Needs:  runs/wikitext-2-small with rms tuned (scripts/train_wikitext2.sh).
# Makes:  runs/wikitext-2-small-finetuned-rms, and -finetuned-none: plain training at the same budget, to compare with.
# Takes:  minutes: 200,000 tokens of training each. Measured gain over plain training: none
#         (docs/results.md, 2026-11-24).
set -euo pipefail
run=runs/wikitext-2-small

for rule in rms none; do
  [[ -e $run-finetuned-$rule/model.json ]] || dynlm finetune $run --memory.rule $rule --finetune.pick_rule rms
  dynlm score $run-finetuned-$rule --articles 31-60 --memory.rule rms
done
dynlm score $run --articles 31-60 --memory.rule rms

for each in $run $run-finetuned-rms $run-finetuned-none; do
  dynlm compare $each
done
