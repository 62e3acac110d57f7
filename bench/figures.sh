#!/usr/bin/env bash
# First figures: throughput, views, latency, idle memory, start time. Prints them; takes about three minutes after the build.
# Usage: bench/figures.sh [path of a release binary]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
  mainstem=$1
else
  cargo build --release -p mainstem-server
  mainstem=target/release/mainstem
fi
dir=$(mktemp -d)
pid=
stop() { [ -z "$pid" ] || { kill "$1" "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; pid=; }; }
trap 'stop -KILL; rm -rf "$dir"' EXIT

now_ms() { date +%s%N | cut -b1-13; }
# Starts a server on $dir/$1 and waits for /ready; sets pid, kafka, pg, http and ready_ms.
start() {
  local out=$dir/out.txt begin line
  : > "$out"
  http=127.0.0.1:18480
  begin=$(now_ms)
  "$mainstem" serve --data-dir "$dir/$1" --kafka-listen 127.0.0.1:0 --pg-listen 127.0.0.1:0 --http-listen "$http" > "$out" &
  pid=$!
  until curl -sf -o /dev/null "http://$http/ready"; do
    kill -0 "$pid" || { echo "the server ended"; exit 1; }
    sleep 0.005
  done
  ready_ms=$(( $(now_ms) - begin ))
  until grep -q ready "$out"; do sleep 0.005; done
  line=$(cat "$out")
  kafka=$(sed -E 's/.*kafka ([^,]+),.*/\1/' <<< "$line")
  pg=$(sed -E 's/.*postgresql ([^,]+),.*/\1/' <<< "$line")
}
cpu_s() { awk -v hz="$(getconf CLK_TCK)" '{print ($14+$15)/hz}' "/proc/$pid/stat"; }
rss_kb() { awk '/RssAnon/ {print $2}' "/proc/$pid/status"; }

echo "== empty directory"
for _ in 1 2 3; do rm -rf "$dir/empty"; start empty; echo "start to /ready: $ready_ms ms"; stop -TERM; done
rm -rf "$dir/empty"; start empty; sleep 10; echo "RssAnon 10 s after ready: $(rss_kb) kB"

echo "== produce and fetch, 100 B, one partition"
for _ in 1 2 3; do
  before=$(cpu_s)
  "$mainstem" bench throughput --records 2000000 --bytes 100 -b "$kafka"
  echo "server CPU of both: $(echo "$(cpu_s) - $before" | bc) s"
done

echo "== topic to the demo's windowed view"
for _ in 1 2 3; do "$mainstem" bench view --events 1000000 -b "$kafka" --pg "$pg"; done

echo "== acknowledgement to the first SELECT that shows it, 10,000 events/s"
for _ in 1 2 3; do "$mainstem" bench latency --rate 10000 --samples 500 -b "$kafka" --pg "$pg"; done
echo "RssAnon now: $(rss_kb) kB"
stop -TERM

echo "== start after kill -9 with 1 GB"
start large
"$mainstem" bench throughput --records 10000000 --bytes 100 -b "$kafka"
stop -KILL
du -sh "$dir/large" | cut -f1
for _ in 1 2 3; do start large; echo "start to /ready: $ready_ms ms"; stop -KILL; done
