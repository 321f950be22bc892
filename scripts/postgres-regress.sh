#!/usr/bin/env bash
# Puts PostgreSQL's own regression tests into target/postgres/regress/<major> (15, 17, 18), each with a regress.so for that major's servers.
# The sources and headers are Debian's, of the releases that have these majors. Does nothing for what is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/target/postgres/regress
mkdir -p "$root"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The mirror that this machine uses already.
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed -n 1p | tr -d ' ') || true

get() {
    local major=$1 release=$2 apt=$scratch/apt-$1 work=$scratch/work-$1
    if [ -e "$root/$major/regress.so" ]; then return; fi
    [ -n "$mirror" ] || { echo "postgres-regress: no Debian mirror is configured here" >&2; return 1; }
    echo "postgres-regress: $major"
    mkdir -p "$work" "$apt"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d} "$apt"/var/lib/apt/lists/partial "$apt"/var/cache/apt/archives/partial "$apt"/var/lib/dpkg
    : >"$apt/var/lib/dpkg/status"
    for kind in deb deb-src; do
        echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main"
    done >"$apt/etc/apt/sources.list"
    local options=(-qq -o "Dir=$apt" -o "Dir::State::status=$apt/var/lib/dpkg/status" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (
        cd "$work"
        apt-get "${options[@]}" source --download-only "postgresql-$major" >/dev/null
        apt-get "${options[@]}" download "postgresql-server-dev-$major" >/dev/null
        tar xf postgresql-"$major"_*.orig.tar.* --strip-components=3 --wildcards '*/src/test/regress'
        dpkg -x postgresql-server-dev-"$major"_*.deb dev
        cc -shared -fPIC -O1 -w -I "dev/usr/include/postgresql/$major/server" -o regress/regress.so regress/regress.c
    )
    rm -rf "${root:?}/$major" && mv "$work/regress" "$root/$major"
}

get 15 bookworm
get 17 trixie
get 18 forky
