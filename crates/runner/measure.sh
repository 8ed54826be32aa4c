#!/usr/bin/env bash
# Builds the static runner as it is shipped and prints its size and its memory while an app runs under it, in a root with nothing else in
# it. Needs root (it makes a pid namespace and a chroot). The figures of SPEC.md come from here.
set -euo pipefail
cd "$(dirname "$0")/../.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}/measure
CARGO_TARGET_DIR=$target RUSTFLAGS=-Ctarget-feature=+crt-static \
  CARGO_PROFILE_RELEASE_OPT_LEVEL=z CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_PANIC=abort \
  cargo build --quiet --release --target "$host" --package captain-runner --package captain-hello
programs=$target/$host/release

root=$(mktemp -d)
trap 'kill "${outer:-}" 2>/dev/null || true; rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir "$root/app"
cp "$programs/captain-runner" "$root/"
cp "$programs/captain-hello" "$root/app/hello"
echo 'web: ./hello' >"$root/app/Procfile"

env -i PORT=0 unshare --pid --fork --kill-child --root="$root" /captain-runner run web >"$root/log" 2>&1 &
outer=$!
for _ in $(seq 200); do
  grep -q listening "$root/log" && break
  sleep 0.05
done
grep -q listening "$root/log" || { cat "$root/log" >&2; exit 1; }
inner=$(tr -d ' ' <"/proc/$outer/task/$outer/children")

echo "size: $(stat -c %s "$programs/captain-runner") bytes"
# RssFile is the program itself, in the page cache once for all instances; RssAnon is what each instance adds.
grep -E '^(VmRSS|RssAnon|RssFile|Threads)' "/proc/$inner/status"
