#!/usr/bin/env bash
# Measures a checkpoint as docs/results.md shows it, several measurements at once on each GPU.
#
#   benchmarks/results.sh MODEL WORK OUT
#
# MODEL: a checkpoint with trained policies, its name or folder. WORK holds text in valid/ (`refrag train
# prepare`) and questions in qa/NAME.valid.jsonl.zst; where pack.sh was used also bases/ and site/. OUT, one
# a checkpoint, gets a folder and a log for each measurement; started again it goes on. No blanks in paths.
#
# Environment: SECONDS_LEFT in all, what has none left is left out; JOBS at once on a GPU (4: one alone
# does not keep it busy); GPUS; ITEMS questions a set; WINDOWS of running text. On one H200 it takes 1,200 s.
set -u
model=$1 work=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
gpus=${GPUS:-$(python3 -c 'import torch; print(torch.cuda.device_count())')}
export gpus=$((gpus > 0 ? gpus : 1)) out
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-3} TOKENIZERS_PARALLELISM=false
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
export PYTHONPATH=$PWD:$PWD/integrations:$work/site:${PYTHONPATH:-}
[ ! -d "$work/bases" ] || export REFRAG_HOME=$work HF_HUB_OFFLINE=1
export end=$(($(date +%s) + ${SECONDS_LEFT:-86400}))

evaluate="python3 -m refrag_components.cli eval"
texts="$evaluate perplexity --model $model --text $work/valid --no-plots --windows ${WINDOWS:-400}
    --shuffled --policy random --policy recent --policy perplexity --policy learned"
answers="$evaluate qa --model $model --items ${ITEMS:-500} --no-plots"
some="--expanded .1 --expanded .25"
many="--expanded .05 $some --expanded .5"
all="--policy random --policy recent --policy perplexity --policy perplexity-ascending
    --policy similarity --policy late-interaction --policy learned --policy learned-query"
both="--policy late-interaction --policy learned-query"

# job NAME COMMAND... -- one line of NAME, tab, command
job() {
    local name=$1
    shift
    printf '%s\t%s\n' "$name" "$(echo $* --out "$out/$name")"
}

# questions NAME SET OPTIONS...
questions() {
    local name=$1 set=$2
    shift 2
    job "$name-$set" $answers "$work/qa/$set.valid.jsonl.zst" "$@"
}

jobs_of_all() {
    for set in squad sqshift_wiki sqshift_amazon sqshift_reddit wikitpl fairytale qamr hybridqa ottqa \
        policyqa boolq strategyqa; do
        questions qa $set $all $many
    done
    job recovery-4 $texts --chunk-size 4 $some
    job recovery-8 $texts --chunk-size 8 --expanded .14
    for set in squad hybridqa; do
        questions searched $set $both $some --retrieval strong --retrieval weak \
            --passages 2 --passages 5 --passages 10 --passages 20
    done
    for set in squad sqshift_amazon fairytale hybridqa; do
        questions k8 $set --policy learned-query $some --chunk-size 8
    done
}

run_job() {
    local name=${1%%$'\t'*} command=${1#*$'\t'} started=$(date +%s) status
    local left=$((end - started)) said="no time left"
    compgen -G "$out/$name/*.md" >/dev/null && return 0  # from an earlier start
    if ((left > 0)); then
        CUDA_VISIBLE_DEVICES=$((SLOT % gpus)) timeout "$left" $command >>"$out/$name.log" 2>&1
        status=$?
        said="ended with $status after $(($(date +%s) - started)) s"
    fi
    echo "$(date +%T) $name: $said" | tee -a "$out/measure.log"
    return "${status:-1}"
}
export -f run_job

jobs_of_all | xargs -d '\n' -P "$((${JOBS:-4} * gpus))" --process-slot-var=SLOT -I{} bash -c 'run_job "$1"' _ {}
