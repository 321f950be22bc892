#!/usr/bin/env bash
# Installs what is missing on a Debian-like machine: PostgreSQL 15 and its server headers (an extension of the tests), etcd (conformance tests), valgrind
# (guards), the protobuf compiler, a C compiler and linker.
# Does nothing, and asks nobody, when everything is there.
set -euo pipefail

missing=()
need() { missing+=("$1"); }
command -v protoc >/dev/null || need protobuf-compiler
command -v etcd >/dev/null || need etcd-server
command -v etcdctl >/dev/null || need etcd-client
command -v cc >/dev/null || need gcc
command -v valgrind >/dev/null || need valgrind
if ! ls /usr/lib/postgresql/1[4-8]/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null; then need postgresql; fi
if ! ls /usr/lib/postgresql/1[4-8]/bin/pgbench >/dev/null 2>&1 && ! command -v pgbench >/dev/null; then need postgresql-contrib; fi

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: please install these (Debian's names): ${missing[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "setup: run as root once: apt-get install -y ${missing[*]}" >&2; exit 1; }
        sudo=(sudo)
    fi
    echo "setup: installing ${missing[*]}"
    # A cluster of Debian's own is of no use here: only the programs are wanted.
    "${sudo[@]}" mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing: install the stable toolchain (1.95 or newer) with rustup, then repeat" >&2
    exit 1
fi

# Only one test needs them, so nothing else waits for them.
"$(dirname "$0")/postgres-headers.sh" || echo "setup: no server headers: tests/tests/custom_rmgr.rs will fail" >&2
