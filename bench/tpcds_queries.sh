#!/usr/bin/env bash
# Fetches the texts of TPC-DS's queries, which are not ours to ship, from the tests of Apache Spark's SQL module (Apache
# License 2.0) as a Maven package, and names the folder.
# Usage: MAINSTEM_TPCDS_QUERIES=$(bench/tpcds_queries.sh [folder]) cargo test --workspace --test engine -- tpcds --ignored --nocapture
set -euo pipefail
version=3.5.3
folder=$(realpath -m "${1:-$(dirname "$0")/../target/tpcds}")
if [ ! -e "$folder/q99.sql" ]; then
  jar=$(mktemp -d)
  trap 'rm -rf "$jar"' EXIT
  mvn -q -B dependency:copy -Dartifact="org.apache.spark:spark-sql_2.13:$version:jar:tests" -DoutputDirectory="$jar" >&2
  mkdir -p "$folder"
  unzip -qjo "$jar"/*.jar 'tpcds/q*.sql' -d "$folder"
fi
echo "$folder"
