#!/usr/bin/env bash
# Tries the project where nothing of it was ever installed: a root directory with Debian's base system, make, git and the Rust
# toolchain. The committed HEAD is cloned into it, and the README's commands run there. Fails when anything had to be there before.
#
#   scripts/fresh.sh            FRESH_STEPS for each user of FRESH_USER
#   scripts/fresh.sh --quick    the set-up and the build of what needs more than Rust, as root; skipped, loudly, where that cannot be tried
#
# FRESH_STEPS   of: setup build native demo test default: "demo test" for root, "demo" for the ordinary user
# FRESH_USER    root, user (an ordinary one with sudo) or both; default: both
# FRESH_DIR     where the root is made           default: a new directory below $TMPDIR or /tmp
# FRESH_SUITE   Debian's release                 default: bookworm
#
# Needs root, and the right to mount. The package mirror, the certificates and cargo's settings are those that this machine uses. Crates that this machine has
# downloaded are lent to the new one, nothing that it has built.
set -euo pipefail
cd "$(dirname "$0")/.."
project=$PWD
suite=${FRESH_SUITE:-bookworm}
quick=
case ${1:-} in
    --quick) quick=1 ;;
    "") ;;
    *) echo "fresh: unknown option $1; see the head of $0" >&2; exit 2 ;;
esac

say() { echo "fresh: $*"; }

# What cannot be tried here: in the gate that is told and passes, asked for by itself it is a failure.
cannot() {
    if [ -n "$quick" ]; then
        say "SKIPPED: the set-up was not tried on a clean machine: $*"
        exit 0
    fi
    say "cannot be tried here: $*" >&2
    exit 1
}

[ "$(id -u)" -eq 0 ] || cannot "it needs root"
command -v apt-get >/dev/null || cannot "this is no Debian"
scripts/setup.sh fresh || cannot "mmdebstrap cannot be installed"

base=$(mktemp -d "${FRESH_DIR:-${TMPDIR:-/tmp}}/walfabric-fresh-XXXXXX")
root=$base/root
mkdir "$root"
# An ordinary user has to get to its own root.
chmod 755 "$base" "$root"

# Unmounts everything below the root, deepest first, before anything is removed: what is mounted there is not ours to remove.
clean_up() {
    local place rest=
    # The kernel writes a blank in a path as \040.
    for place in $(awk -v under="$base/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount "$(printf '%b' "$place")" 2>/dev/null || umount -l "$(printf '%b' "$place")" || rest=$place
    done
    if [ -n "$rest" ] || grep -q " $base/" /proc/self/mountinfo; then
        say "$base is left as it is: $rest is still mounted there" >&2
        return
    fi
    rm -rf --one-file-system "$base"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mount -t tmpfs none "$root" 2>/dev/null || cannot "it may not mount"
umount "$root"

began=$SECONDS

# The sources of this machine's own release: its mirror, whichever that is.
sources=$base/sources.list
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed -n 1p | tr -d ' ') || true
[ -n "$mirror" ] || cannot "no Debian mirror is configured here"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || cannot "there is no $keyring"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$sources"

# How this machine talks to its mirror: credentials, proxies, transports. Hooks and clean-up rules of its own stay outside.
options=$base/apt.conf
apt-config dump | grep -E '^Acquire::' | grep -vE '^Acquire::(IndexTargets|Languages|CompressionTypes|cdrom)' >"$options" || true

say "making a $suite with nothing but its base system, make, git and certificates"
mmdebstrap --quiet --mode=root --variant=minbase --include=ca-certificates,make,git,sudo --aptopt="$options" \
    --keyring="$keyring" "$suite" "$root" "$sources" 2>"$base/mmdebstrap.log" ||
    { cat "$base/mmdebstrap.log" >&2; cannot "mmdebstrap failed, see above"; }
cp "$options" "$root/etc/apt/apt.conf.d/99fresh"
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
cp "$sources" "$root/etc/apt/sources.list"
for file in /etc/resolv.conf /etc/hosts; do
    if [ -e "$file" ]; then cp -L "$file" "$root$file"; fi
done
# A registry behind a certificate of its own: the bundle is part of the network here, not of what the project needs.
bundle=/etc/ssl/certs/ca-certificates.crt
if [ -e "$bundle" ]; then cp -L "$bundle" "$root$bundle"; fi

# The toolchain, read only; what cargo has downloaded is lent through a copy of names (hard links would be shared).
sysroot=$(rustc --print sysroot)
mkdir -p "$root/opt/rust" "$root/opt/cargo" "$root/src"
mount --bind "$sysroot" "$root/opt/rust"
mount -o remount,ro,bind "$root/opt/rust"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
for part in registry/cache registry/index config.toml config; do
    if [ -e "$cargo_home/$part" ]; then
        mkdir -p "$(dirname "$root/opt/cargo/$part")"
        cp -a "$cargo_home/$part" "$root/opt/cargo/$part"
    fi
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
say "made in $((SECONDS - began)) s"

# Runs a command inside, as user $1, in a clone of the committed HEAD; with nothing of this machine's environment.
inside() {
    local user=$1 home=/root drop=()
    shift
    if [ "$user" != root ]; then
        home=/home/$user
        drop=(--userspec "$user:$user")
    fi
    chroot "${drop[@]}" "$root" /usr/bin/env -i HOME="$home" USER="$user" LANG=C.UTF-8 SSL_CERT_FILE="$bundle" \
        CARGO_HOME="$home/.cargo" PATH="/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        bash -c 'cd "$HOME/walfabric" && exec "$@"' fresh "$@"
}

prepare() {
    local user=$1 home=/root
    if [ "$user" != root ]; then
        home=/home/$user
        chroot "$root" useradd --create-home --shell /bin/bash "$user"
        echo "$user ALL=(ALL) NOPASSWD: ALL" >"$root/etc/sudoers.d/$user"
    fi
    git clone --quiet --no-hardlinks "$project" "$root$home/walfabric"
    cp -a "$root/opt/cargo" "$root$home/.cargo"
    chroot "$root" chown -R "$user:$user" "$home"
}

step() {
    local user=$1 step=$2 at=$SECONDS
    say "== $step, as $user"
    case $step in
        setup) inside "$user" scripts/setup.sh build run test ;;
        build) inside "$user" make build ;;
        native) inside "$user" cargo build --profile demo -p etcd-client -p broker -p pgformat ;;
        demo | test) inside "$user" make "$step" ;;
        *) say "there is no step $step: setup build demo test" >&2; exit 2 ;;
    esac || { say "FAILED: $step, as $user, after $((SECONDS - at)) s" >&2; exit 1; }
    say "== $step, as $user: passed in $((SECONDS - at)) s"
}

try() {
    local user=$1
    shift
    prepare "$user"
    for one in "$@"; do step "$user" "$one"; done
}

if [ -n "$quick" ]; then
    try root setup native
else
    case ${FRESH_USER:-both} in
        root) try root ${FRESH_STEPS:-demo test} ;;
        user) try walter ${FRESH_STEPS:-demo} ;;
        both)
            try root ${FRESH_STEPS:-demo test}
            # What root has installed must not help the other: the packages stay, so this one shows that no root is needed then, and
            # FRESH_USER=user that sudo is enough.
            try walter ${FRESH_STEPS:-demo}
            ;;
        *) say "FRESH_USER is root, user or both" >&2; exit 2 ;;
    esac
fi
say "everything passed, in $((SECONDS - began)) s: nothing had to be there beforehand"
