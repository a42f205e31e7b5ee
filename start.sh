#!/bin/sh
# Builds the node program, unless it is built already, and becomes it.
set -eu

usage() {
    echo "Usage: start.sh NODE_NAME [OPTIONS]"
    echo "       start.sh --cluster N [OPTIONS]"
    echo "'start.sh --help' explains the options."
}

fail() {
    echo "start.sh: $1" >&2
    exit 1
}

if [ $# -eq 0 ]; then
    usage >&2
    exit 65
fi

home=$(dirname -- "$(readlink -f -- "$0")")
release=${CARGO_TARGET_DIR:-$home/target}/release
program=$release/statekeeper
# Older than any source, the stamp says that the program is stale. Cargo would find out as well, but slower.
stamp=$release/.statekeeper-built

if [ ! -x "$program" ] || [ ! -e "$stamp" ] ||
    [ -n "$(find "$home/src" "$home/Cargo.toml" "$home/Cargo.lock" -newer "$stamp" -print -quit)" ]; then
    PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin # where rustup puts it, before a new login
    command -v cargo >/dev/null || fail "cargo is missing: install Rust (rustup does it), then try again"
    mkdir -p "$release"
    # Dated before the build: what is edited meanwhile is built next time.
    : >"$stamp.$$"
    trap 'rm -f "$stamp.$$"' EXIT
    trap 'exit 1' HUP INT TERM
    cargo build --release --locked --bin statekeeper --manifest-path "$home/Cargo.toml" >&2 ||
        fail "the build failed; see above"
    mv -f "$stamp.$$" "$stamp"
    trap - EXIT HUP INT TERM
fi

# mimalloc: what another thread gives back of a page that was full once goes to whoever needs it, and need not wait for the
# thread that had it, which may never ask again. Of the memory of players that went to rest it kept half otherwise.
export MIMALLOC_PAGE_RECLAIM_ON_FREE="${MIMALLOC_PAGE_RECLAIM_ON_FREE:--1}"

exec "$program" "$@"
