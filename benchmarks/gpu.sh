#!/usr/bin/env bash
# What to measure first when a GPU is at hand for a few minutes: benchmarks/gpu.sh [OUT]
#
# Correctness first, then the rows of the speed table by importance. Each result is on disk in OUT as soon as it is known
# (default: runs/gpu), so the script may be stopped at any time. A step that fails or takes too long is reported, and the
# next one starts. It needs jax with CUDA, torch, diffusers, transformers and timm; it installs nothing.
#
# SECONDS_LEFT: for everything (default 480). LIMIT_FACTOR: multiplies the limit of each step. DRY=1: the same steps on
# the CPU at tiny size.
set -u
out=$(realpath -m "${1:-runs/gpu}")
cd "$(dirname "$0")/.."
device=gpu flags=() rows=(contrast-250 attend-32 diffuse-8 sample-40)
if [ -n "${DRY:-}" ]; then
  device=cpu flags=(--quick) rows=(contrast-2 attend-2 diffuse-2 sample-2)
  export JAX_PLATFORMS=cpu
fi
end=$((SECONDS + ${SECONDS_LEFT:-480}))
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false

# run LIMIT NAME COMMAND...: at most LIMIT seconds, and no longer than all have.
run() {
  local limit=$(($1 * ${LIMIT_FACTOR:-1})) name=$2 left=$((end - SECONDS)) status
  shift 2
  if [ "$left" -lt 5 ]; then
    echo "$name: skipped, no time left" | tee -a "$out/steps.txt"
    return
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  local start=$SECONDS
  timeout "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.log"
  status=$?
  echo "$name: status $status after $((SECONDS - start)) s" | tee -a "$out/steps.txt"
}

# table LIMIT NAME ROW [FLAG...]: a row of the speed table, both sides.
table() {
  local limit=$1 name=$2 row=$3
  shift 3
  run "$limit" "$name" python benchmarks/run.py --device=$device "${flags[@]}" --rows="$row" --repetitions=1 --out="$out" "$@"
}

: >"$out/steps.txt"
run 60 versions python -c 'import jax, torch; print(jax.__version__, jax.devices(), torch.__version__, torch.cuda.is_available())'
run 120 losses_cpu env JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= python -m benchmarks.first_losses --out="$out/losses_cpu.json"
run 120 losses python -m benchmarks.first_losses --out="$out/losses.json" --against="$out/losses_cpu.json"
run 120 losses_bfloat16 python -m benchmarks.first_losses --dtype=bfloat16 --out="$out/losses_bfloat16.json" --against="$out/losses_cpu.json"
for row in "${rows[@]}"; do
  table 150 "$row" "$row" --no_compile
done
for row in "${rows[@]:0:3}"; do
  table 150 "$row-compile" "$row"  # with torch.compile
done
run 600 table python benchmarks/run.py --device=$device "${flags[@]}" --repetitions=1 --out="$out"
