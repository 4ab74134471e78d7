#!/usr/bin/env bash
# Ways to write 1 GiB past the page cache, space reserved and synced once, by fio: GB/s, median of 7.
# Usage: bench/io.sh [DIRECTORY], on the disk to measure.
set -euo pipefail
file=${1:-.}/io.tmp
trap 'rm -f "$file"' EXIT
ways=(
  "psync --numjobs=1 --size=1g"
  "psync --numjobs=4 --size=256m --offset_increment=256m"
  "io_uring --iodepth=4 --size=1g"
  "io_uring --iodepth=16 --size=1g"
)
for _ in 1 2 3 4 5 6 7; do
  for way in "${ways[@]}"; do
    rm -f "$file"
    # shellcheck disable=SC2086
    rate=$(fio --name=write --filename="$file" --rw=write --bs=2m --direct=1 --fallocate=posix \
      --end_fsync=1 --group_reporting --output-format=terse --ioengine=$way | awk -F';' 'NF > 50 { print $48 / 1e6 }')
    echo "$rate ${way}"
  done
done | sort -k2 -k1n | awk '{ rate = $1; $1 = ""; if (++seen[$0] == 4) printf "%-60s %5.2f\n", $0, rate }'
