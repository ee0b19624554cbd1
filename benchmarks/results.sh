#!/usr/bin/env bash
# Runs the measurements of docs/results.md for a checkpoint, several at once on each GPU.
#
#   benchmarks/results.sh MODEL WORK OUT [GROUP...]
#
# MODEL: a checkpoint with trained policies, by name or folder. WORK contains text in valid/ (`refrag train
# prepare`), questions in qa/NAME.valid.jsonl.zst and a pool in qa/passages.jsonl.zst; if pack.sh was used,
# also bases/ and site/. OUT, one per checkpoint, gets a folder and a log for each measurement; a second start
# continues. No blanks in paths. GROUP: what to measure, by default "answers recovery searched k8", for which
# results.py prints the tables; "sceptic" (is compressing worth its positions? all sets, every budget together
# with its rivals) and "sceptic-pool" (the same over 5 to 80 passages from the pool) write their tables to
# OUT/sceptic.md at the end. "targets" measures every rung of a checkpoint with its rivals, "twin" the plain
# twin as text; targets.py makes tables of the two.
#
# Environment: SECONDS_LEFT, total time, after which measurements are skipped; JOBS per GPU at once (4: a
# single one does not keep it busy); GPUS; ITEMS, questions per set; POOL_ITEMS (100), questions per set over
# the pool; WINDOWS of running text; POLICY of the sceptic's groups and the targets. On one H200 the default groups take 1,200 s.
set -u
model=$1 work=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
shift 3
groups="${*:-answers recovery searched k8}"
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
answers="$evaluate qa --model $model --no-plots"
some="--expanded .1 --expanded .25"
many="--expanded .05 $some --expanded .5"
both="--policy late-interaction --policy learned-query"
default="--policy ${POLICY:-learned-query}"
# What docs/results.md compares; the rivals that a sceptic asks for are measured separately.
compared="--method none --method full --method compressed --method last --method fewer --method keep"
rivals="--method none --method full --method gold --method compressed --method fewer --method keep
    --method drop --method text"

# job NAME COMMAND... -- prints one line: NAME, tab, command
job() {
    local name=$1
    shift
    printf '%s\t%s\n' "$name" "$(echo $* --out "$out/$name")"
}

# sets GROUP -- prints the names of a group's sets
sets() {
    python3 benchmarks/sets.py "$1"
}

# files SET... -- prints the question files of the sets
files() {
    local set
    for set in "$@"; do
        echo "$work/qa/$set.valid.jsonl.zst"
    done
}

# questions NAME SET OPTIONS... -- one set per measurement
questions() {
    local name=$1 set=$2
    shift 2
    job "$name-$set" $answers "$(files $set)" --items "${ITEMS:-500}" "$@"
}

# in_quarters NAME OPTIONS... -- all sets, in four measurements: starting takes longer than answering
in_quarters() {
    local name=$1 i
    shift
    for i in 1 2 3 4; do
        job "$name-$i" $answers "$(files $(sets "quarter-$i"))" --items "${ITEMS:-500}" "$@"
    done
}

# over_pool NAME OPTIONS... -- some sets, over passages that a search finds in the pool
over_pool() {
    local name=$1
    shift
    job "$name" $answers "$(files $(sets pool))" --items "${POOL_ITEMS:-100}" \
        --pool "$work/qa/passages.jsonl.zst" --retrieval strong "$@"
}

jobs_of_answers() {
    for set in $(sets all); do
        questions qa $set $compared $many
    done
}

jobs_of_recovery() {
    job recovery-4 $texts --chunk-size 4 $some
    job recovery-8 $texts --chunk-size 8 --expanded .14
}

jobs_of_searched() {
    for set in $(sets searched); do
        questions searched $set $compared $both $some --retrieval strong --retrieval weak \
            --passages 2 --passages 5 --passages 10 --passages 20
    done
}

jobs_of_k8() {
    for set in $(sets k8); do
        questions k8 $set $compared $default $some --chunk-size 8
    done
}

jobs_of_sceptic() {
    in_quarters sceptic $default $rivals --expanded .05 $some
}

jobs_of_sceptic-pool() {
    over_pool sceptic-pool $default $rivals --expanded .1 \
        --passages 5 --passages 10 --passages 20 --passages 40 --passages 80
}

jobs_of_targets() {
    local k
    in_quarters targets $default $rivals --expanded .05 $some
    for k in 8 16 32; do
        job "targets-text-$k" $evaluate perplexity --model $model --text $work/valid --no-plots \
            --windows "${WINDOWS:-400}" --policy random --expanded .1 --chunk-size $k
    done
    over_pool targets-pool $default --method compressed --method none --method keep --method drop \
        --method text --expanded .05 --expanded .1 --passages 40 --passages 80
}

jobs_of_twin() {
    local reads="--method none --method full --method gold"
    in_quarters twin $reads
    over_pool twin-pool $reads --passages 1 --passages 2 --passages 5 --passages 10 \
        --passages 20 --passages 40
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

for group in $groups; do
    declare -F "jobs_of_$group" >/dev/null || { echo "unknown group $group" >&2; exit 2; }
done
for group in $groups; do
    "jobs_of_$group"
done | xargs -d '\n' -P "$((${JOBS:-4} * gpus))" --process-slot-var=SLOT -I{} bash -c 'run_job "$1"' _ {}
status=$?
case $groups in
*sceptic*) python3 benchmarks/sceptic.py "$out" | tee "$out/sceptic.md" ;;
esac
exit $status
