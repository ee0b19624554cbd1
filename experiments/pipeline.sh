#!/usr/bin/env bash
# Trains a checkpoint by the clock on all GPUs of a machine, kills each stage once, and measures what has
# come through all of them.
#
#   experiments/pipeline.sh RECIPE WORK
#
# WORK holds text in train/ and valid/ (`refrag train prepare`) and questions in qa/NAME.train.jsonl.zst
# and, to measure on, NAME.valid.jsonl.zst; where pack.sh was used also bases/ and site/. Everything goes
# to WORK/questions (prepared beside the first stage), WORK/run (stages) and WORK/out (logs,
# measurements). Started again it goes on.
#
# Environment: SECONDS_LEFT in all; CONTINUAL seconds of the first stage, from its first step; RESERVE
# seconds for the twin, policies and measurements and for loading the questions stage (a minute or more,
# twice if it is killed): its steps take the rest; TWIN seconds of the plain twin, 0 leaves it out; POLICY
# seconds of the last stage, 0 leaves it out and the measurements;
# KILL_CONTINUAL, KILL_QUESTIONS: the checkpoint after which a stage is killed, 0 for none;
# GPUS; LAUNCH: more options of `accelerate launch`; and those of benchmarks/results.sh.
set -u
recipe=$1 work=$(realpath "$2")
run=$work/run out=$work/out
mkdir -p "$run" "$out"
gpus=${GPUS:-$(python3 -c 'import torch; print(torch.cuda.device_count())')}
[ "$gpus" -gt 0 ] || gpus=1 LAUNCH=${LAUNCH---cpu}
refrag="python3 -m refrag_components.cli"
export PYTHONPATH=$PWD:$PWD/integrations:$work/site
[ ! -d "$work/bases" ] || export REFRAG_HOME=$work HF_HUB_OFFLINE=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} TOKENIZERS_PARALLELISM=false PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
end=$(($(date +%s) + ${SECONDS_LEFT:-4000}))

left() { echo $((end - $(date +%s))); }
log() { echo "$(date +%T), $(left) s left: $*" | tee -a "$out/pipeline.log"; }
on() { echo "env CUDA_VISIBLE_DEVICES=$(($1 % gpus))"; }
limited() { timeout "$(($(left) > 1 ? $(left) : 1))" "$@"; }

launch() {
    "$@" --recipe "$recipe" --text "$work/train" --validation "$work/valid" --out "$run" \
        >>"$out/$stage.log" 2>&1 &
    process=$!
}

# tree PROCESS -- it and all that it started: `accelerate launch` gives each GPU a session of its own
tree() {
    local child
    for child in $(pgrep -P "$1"); do tree "$child"; done
    echo "$1"
}

# killed_once PATTERN COMMAND... -- kills it when PATTERN appears, then starts it again
killed_once() {
    local pattern=$1 all status
    shift
    compgen -G "$pattern" >/dev/null && pattern=  # from an earlier start: was killed then
    launch "$@"
    if [ -n "$pattern" ]; then
        while kill -0 $process 2>/dev/null && ! compgen -G "$pattern" >/dev/null; do sleep 1; done
        if kill -0 $process 2>/dev/null; then
            sleep 1
            all=$(tree $process)
            kill -9 $all 2>/dev/null
            wait $process 2>/dev/null
            while kill -0 $all 2>/dev/null; do sleep 1; done
            log "$stage killed"
            launch "$@"
        fi
    fi
    wait $process
    status=$?
    log "$stage ended with $status"
    [ -d "$run/$stage/model" ]
}

# train STAGE SECONDS CHECKPOINT OPTIONS... -- on all GPUs
train() {
    stage=$1
    [ ! -d "$run/$stage/model" ] || return 0
    local seconds=$2 at=$3 pattern=
    shift 3
    [ "$at" -gt 0 ] && pattern=$run/$stage/state-$at
    local many="--multi_gpu"
    [ "$gpus" -gt 1 ] || many=
    killed_once "$pattern" python3 -m accelerate.commands.launch --num_processes "$gpus" --num_machines 1 \
        --mixed_precision no --dynamo_backend no ${LAUNCH-$many} -m refrag_components.cli \
        train run --stage "$stage" --max-seconds "$seconds" "$@" || exit 1
    cp "$run/$stage/log.json" "$out/$stage.json"
}

reading() {  # STAGE -- recovery and recall on every rung
    [ ! -d "$out/reading-$1" ] || return 0
    local rungs
    rungs=$(python3 -c 'import json, sys; print(*(f"--chunk-size {r}" for r in json.load(open(sys.argv[1]))["rungs"]))' \
        "$run/$1/model/config.json")
    limited $(on 1) $refrag eval perplexity --text "$work/valid" --model "$run/$1/model" $rungs --windows 192 \
        --no-plots --out "$out/reading-$1.part" >"$out/reading-$1.log" 2>&1 &&
        mv "$out/reading-$1.part" "$out/reading-$1"
    log "recovery and recall after $1"
}

(while true; do
    nvidia-smi --query-gpu=index,utilization.gpu,memory.used,power.draw --format=csv,noheader 2>/dev/null
    sleep 5
done >>"$out/gpu.csv") &
trap "kill $!" EXIT

log "$gpus GPUs"
[ -e "$work/questions/questions.json" ] || $(on 1) $refrag train questions "$work"/qa/*.train.jsonl.zst \
    --recipe "$recipe" --out "$work/questions" >"$out/questions.log" 2>&1 &
preparing=$!
train continual "${CONTINUAL:-600}" "${KILL_CONTINUAL:-0}"
reading continual &
wait $preparing || exit 1
seconds=$(($(left) - ${RESERVE:-1600}))
train questions $((seconds > 1 ? seconds : 1)) "${KILL_QUESTIONS:-0}" --questions "$work/questions"

reading questions &
reader=$!
[ "${TWIN:-0}" -eq 0 ] || train twin "$TWIN" 0 --questions "$work/questions"
stage=policy
if [ "${POLICY:-0}" -gt 0 ] && killed_once "$run/policy/state-*" $(on 0) $refrag train run --stage policy \
    --max-seconds "$POLICY" --questions "$work/questions"; then
    cp "$run/policy/log.jsonl" "$run/policy/model/policy.safetensors" "$out/"
    SECONDS_LEFT=$(left) benchmarks/results.sh "$run/policy/model" "$work" "$out"
fi
wait $reader
log "all over"
