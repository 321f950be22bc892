#!/usr/bin/env bash
# Installs what the project needs and this machine does not have, on a Debian-like system. Asks nobody, and does nothing
# where everything is there.
#
#   scripts/setup.sh [GROUP...]     the groups of the table below; default: build run test
#   scripts/setup.sh --list         the table, for checks (tests/tests/programs.rs)
#
# Each line of the table asks for the thing that is used (a program, a header, a file), not for a package's main program:
# a package is whole only when all that we use of it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

# group  package              what shows that it is there
table() {
    cat <<'TABLE'
build    gcc                  program cc
build    libc6-dev            file /usr/include/stdio.h
build    protobuf-compiler    program protoc
build    libprotobuf-dev      file /usr/include/google/protobuf/descriptor.proto
build    ca-certificates      file /etc/ssl/certs/ca-certificates.crt
run      postgresql           server initdb
run      postgresql           server postgres
run      postgresql-contrib   server pgbench
run      postgresql-client    server psql
test     postgresql-15        file /usr/lib/postgresql/15/bin/pg_waldump
test     postgresql-15        file /usr/lib/postgresql/15/lib/pageinspect.so
test     postgresql-client-15 file /usr/lib/postgresql/15/bin/psql
test     etcd-server          program etcd
test     etcd-client          program etcdctl
test     valgrind             program valgrind
test     e2fsprogs            program mkfs.ext4
test     mount                program mount
test     mount                program umount
test     perl-base            program perl
test     git                  program git
proof    nodejs               program node
proof    npm                  program npm
proof    python3              program python3
proof    python3-pip          module pip
proof    patchelf             program patchelf
proof    bzip2                program bzip2
proof    xz-utils             program xz
bench    linux-perf           program perf
bench    git                  program git
s3-moto  python3              program python3
s3-moto  python3-venv         module venv
s3-moto  python3-venv         module ensurepip
s3-moto  curl                 program curl
fresh    mmdebstrap           program mmdebstrap
fresh    git                  program git
TABLE
}

if [ "${1:-}" = --list ]; then table; exit; fi
groups=" ${*:-build run test} "

present() {
    case $1 in
        # Not all of them are on an ordinary user's path.
        program) PATH=$PATH:/usr/sbin:/sbin command -v "$2" >/dev/null ;;
        file) [ -e "$2" ] ;;
        module) python3 -c "import $2" 2>/dev/null ;;
        server) command -v "$2" >/dev/null || ls /usr/lib/postgresql/1[4-9]/bin/"$2" >/dev/null 2>&1 ;;
        *) echo "setup: the table asks for a $1, which is nothing that can be looked for" >&2; exit 2 ;;
    esac
}

# What is not there, as `package (proof)`, and the packages alone, each once.
look() {
    lacking=() packages=()
    local group package kind what
    while read -r group package kind what; do
        case $groups in *" $group "*) ;; *) continue ;; esac
        if present "$kind" "$what"; then continue; fi
        lacking+=("$package ($kind $what)")
        case " ${packages[*]-} " in *" $package "*) ;; *) packages+=("$package") ;; esac
    done < <(table)
}

for group in $groups; do
    table | grep -q "^$group " || { echo "setup: there is no group $group" >&2; exit 2; }
done

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing: install the stable toolchain (1.95 or newer) with rustup, then repeat" >&2
    exit 1
fi

look
if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: please install these (Debian's names): ${lacking[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "setup: run as root once: apt-get install -y ${packages[*]}" >&2; exit 1; }
        sudo=(sudo)
    fi
    echo "setup: installing ${packages[*]}"
    # A cluster of Debian's own is of no use here: only the programs are wanted.
    "${sudo[@]}" mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! "${sudo[@]}" apt-get update -qq >"$log" 2>&1 ||
        ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >>"$log" 2>&1; then
        cat "$log" >&2
        echo "setup: could not install ${packages[*]}: see above" >&2
        exit 1
    fi
    look
    if [ ${#lacking[@]} -gt 0 ]; then
        echo "setup: installed, and still not there: ${lacking[*]}" >&2
        exit 1
    fi
fi

# Server headers, for the extension that the tests compile.
case $groups in *" test "*) scripts/postgres-headers.sh ;; esac
