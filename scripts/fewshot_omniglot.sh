#!/usr/bin/env bash
# Few-shot classification on Omniglot: nearest neighbour, prototypical network, MAML and Reptile on whole unseen alphabets.
#
#   scripts/fewshot_omniglot.sh DIR
#
# Needs:  DIR, a folder with Omniglot's images_background.zip and images_evaluation.zip.
# Makes:  runs/fewshot/omniglot-*; one table and pictures in runs/fewshot/figures-omniglot.
# Takes:  about 90 minutes of one core (prototypical network 6, MAML 41, Reptile 45).
# A training that was stopped goes on from its newest checkpoint.
set -euo pipefail
dir=${1:?usage: fewshot_omniglot.sh DIR}

# What the task distribution holds: alphabets, characters and images of each split.
dynlm fewshot tasks --task.source omniglot --task.path "$dir"

for learner in pixels-5-way prototypes maml-5-way reptile-5-way; do
  dynlm fewshot train --config fewshot/omniglot-$learner --task.path "$dir"
  dynlm fewshot evaluate runs/fewshot/omniglot-$learner
done

# Finn et al. 2017 evaluate with one query example of each class; batch norm sees them, so that their number matters.
dynlm fewshot evaluate runs/fewshot/omniglot-maml-5-way --task.queries 1

dynlm fewshot show runs/fewshot/omniglot-{pixels-5-way,prototypes,maml-5-way,reptile-5-way} \
  --out runs/fewshot/figures-omniglot
