#!/usr/bin/env bash
# Puts the server headers of the PostgreSQL that is installed into target/postgres/headers/<major>, for the extension of
# tests/extension. Only unpacked: as a package they would bring a compiler of their own. Does nothing where they are.
set -euo pipefail
cd "$(dirname "$0")/.."

for major in 15 17 16 18; do
    if [ ! -x "/usr/lib/postgresql/$major/bin/postgres" ]; then continue; fi
    if [ -e "/usr/include/postgresql/$major/server/postgres.h" ]; then continue; fi
    target=$PWD/target/postgres/headers/$major
    if [ -e "$target/postgres.h" ]; then continue; fi
    echo "postgres-headers: $major"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    package=postgresql-server-dev-$major
    (
        cd "$scratch"
        # The lists may be there already; without root they cannot be renewed.
        apt-get -qq -o APT::Sandbox::User=root download "$package" >/dev/null 2>&1 || {
            if [ "$(id -u)" -eq 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
            apt-get -qq -o APT::Sandbox::User=root download "$package" >/dev/null
        }
        dpkg -x "$package"_*.deb dev
    )
    mkdir -p "$(dirname "$target")"
    rm -rf "$target"
    mv "$scratch/dev/usr/include/postgresql/$major/server" "$target"
    rm -rf "$scratch"
done
