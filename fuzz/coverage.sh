#!/bin/bash
# How much of each file of the crate the corpora of the fuzz targets reach: fuzz/coverage.sh [DIRECTORY OF THE CORPORA]
# Needs cargo-fuzz, and the component llvm-tools of the nightly toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
corpora=${1:-fuzz/corpus}
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
tools=$(rustc +nightly --print sysroot)/lib/rustlib/$host/bin
[ -x "$tools/llvm-cov" ] || rustup component add llvm-tools --toolchain nightly

profiles=()
objects=()
for target in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$target" .rs)
    mkdir -p "$corpora/$target"
    cargo +nightly fuzz coverage "$target" "$corpora/$target" "fuzz/seeds/$target" >&2
    profiles+=("fuzz/coverage/$target/coverage.profdata")
    objects+=(--object "target/$host/coverage/$host/release/$target")
done
"$tools/llvm-profdata" merge --sparse "${profiles[@]}" -o fuzz/coverage/all.profdata
"$tools/llvm-cov" export "${objects[@]}" --instr-profile fuzz/coverage/all.profdata --summary-only | python3 -c '
import json, os, sys
root = os.getcwd() + "/src/"
for file in sorted(json.load(sys.stdin)["data"][0]["files"], key=lambda file: file["filename"]):
    lines = file["summary"]["lines"]
    if file["filename"].startswith(root) and lines["count"]:
        print("{:6.1f} %  {:4} of {:4}  {}".format(
            lines["percent"], lines["covered"], lines["count"], file["filename"][len(root):]))
'
