#!/usr/bin/env bash
# kcat behind the contract of clients.py. In the group variant kcat replaces this shell, so that a kill of the process
# hits kcat itself; its commits are librdkafka's own, every 100 ms.
set -euo pipefail
command=$1
shift
first=0 group="" session_timeout=6000 log=/dev/stdout
while (($#)); do
    case $1 in
    --bootstrap) bootstrap=$2 ;;
    --topic) topic=$2 ;;
    --partitions) partitions=$2 ;;
    --count) count=$2 ;;
    --codec) codec=$2 ;;
    --run-id) run=$2 ;;
    --first) first=$2 ;;
    --group) group=$2 ;;
    --session-timeout-ms) session_timeout=$2 ;;
    --commit-every) ;;
    --log) log=$2 ;;
    *) echo "unknown argument $1" >&2 && exit 2 ;;
    esac
    shift 2
done

# kcat tells on its standard error what it is assigned: "...: assigned: topic [0], topic [1]".
log_assignments() {
    local line
    while IFS= read -r line; do
        echo "$line"
        if [[ $line == *" assigned: "* ]]; then
            printf 'A\t%s\n' "$(grep -o '\[[0-9]*\]' <<<"${line##* assigned: }" | tr -d '[]' | paste -sd, -)" >>"$log"
        fi
    done
}

format='R\t%p\t%o\t%k\t%s\n'

case $command in
produce)
    for ((partition = 0; partition < partitions; partition++)); do
        awk -v partition="$partition" -v partitions="$partitions" -v first="$first" -v count="$count" -v run="$run" '
            BEGIN {
                for (n = first; n < first + count; n++)
                    if (n % partitions == partition)
                        printf "k%d\t{\"client\": \"kcat\", \"run\": \"%s\", \"n\": %d, \"partition\": %d}\n", n, run, n, partition
            }' |
            kcat -P -b "$bootstrap" -t "$topic" -p "$partition" -K '\t' -z "$codec" \
                -X enable.idempotence=true -X acks=all -X linger.ms=20
    done
    # kcat ends with an error when it could not deliver all of its input.
    echo "acknowledged $count"
    ;;
consume)
    if [[ -n $group ]]; then
        exec kcat -b "$bootstrap" -u -f "$format" -X "session.timeout.ms=$session_timeout" -X heartbeat.interval.ms=1000 \
            -X auto.commit.interval.ms=100 -X auto.offset.reset=earliest -G "$group" "$topic" \
            >>"$log" 2> >(log_assignments >&2)
    fi
    kcat -C -b "$bootstrap" -t "$topic" -o beginning -c "$count" -q -f "$format" >>"$log"
    ;;
*) echo "unknown command $command" >&2 && exit 2 ;;
esac
