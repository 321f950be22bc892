#!/usr/bin/env bash
# Runs the page store's storage tests against moto_server as well, which is installed below target/moto.
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
for _ in $(seq 100); do
    curl -sf "$url/moto-api/" >/dev/null && break
    kill -0 $server
    sleep 0.2
done
curl -sf -X PUT "$url/bucket" >/dev/null
WALFABRIC_TEST_S3_URL=$url cargo test -p pageserver --lib -- \
    store::blobs::tests::every_backend_conforms store::timeline::tests::a_timeline_lives_in_every_backend
