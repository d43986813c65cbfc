#!/usr/bin/env bash
# Runs the arith pipeline with the learner, and then every job, on a GPU, with the same binary that runs on a CPU.
#
#   tests/gpu.sh [OPD [OUT]]        OPD: bin/opd, or the same file stripped or compressed with xz; OUT: where stores go
#
# The machine needs an NVIDIA GPU and a Python whose `import torch` is 2.11 with CUDA: its libtorch is used in place of the
# CPU build. Nothing is built or fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
opd=${1:-bin/opd} out=${2:-$(mktemp -d)}
mkdir -p "$out"
case $opd in
    *.xz) xz -dc "$opd" >"$out/opd"; chmod +x "$out/opd"; opd=$out/opd ;;
esac

torch=$(python3 -c 'import os, torch; assert torch.__version__.startswith("2.11"), torch.__version__; print(os.path.dirname(torch.__file__))')
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader

run() { # NAME [--set ...]
    local name=$1
    shift
    rm -rf "${out:?}/$name"
    echo "== $name"
    "$opd" run pipelines/arith.toml --set "store.url=$out/$name" --set learn.steps=60 \
        --set learn.optimizer.schedule.total_steps=60 --set eval.every=0 "$@" 2>"$out/$name.log" || { tail -20 "$out/$name.log"; exit 1; }
}
run cpu
run learner-on-gpu --set learn.device=cuda
run all-on-gpu --set learn.device=cuda --set learn.head_chunk=2048 --set rollout.device=cuda --set score.device=cuda --set eval.device=cuda

echo "== the same first rows: learner against sampler and against the CPU's learner, step 1"
for name in cpu learner-on-gpu all-on-gpu; do
    printf '%s: ' "$name"
    "$opd" sql "$out/$name" "select loss, forward_kl, reverse_kl, grad_norm from steps where step = 1" --format json
done
