#!/usr/bin/env bash
# Runs the tests of storage against moto_server as well, which is installed below target/moto.
# moto is asked about the protocol, not about races: it is not atomic enough to judge those.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/moto
if [ ! -x "$venv/bin/moto_server" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'moto[server,s3]==5.2.5'
fi
port=${MOTO_PORT:-5599}
"$venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$venv/log" 2>&1 &
server=$!
trap 'kill $server' EXIT
url=http://127.0.0.1:$port
up=
for _ in $(seq 150); do
    if curl -sf "$url/moto-api/" >/dev/null; then up=1; break; fi
    kill -0 $server 2>/dev/null || { echo "s3-moto: moto_server ended; its log is $venv/log" >&2; exit 1; }
    sleep 0.2
done
[ -n "$up" ] || { echo "s3-moto: moto_server did not answer within 30 s; its log is $venv/log" >&2; exit 1; }
curl -sf -X PUT "$url/bucket" >/dev/null
export WALFABRIC_TEST_S3_URL=$url
cargo test -p blobs --test conformance -- every_implementation_conforms
cargo test -p pageserver --lib -- store::timeline::tests::a_timeline_lives_in_every_backend
