# What the scripts in here need of the machine; sourced by them.
#
# Rule: nothing is installed but by apt-get, as root; what is missing is named with how to get it.

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
rust=1.95
packages=() missing=()

need() { # a command or a file, and the package that brings it
    PATH=$PATH:/usr/sbin command -v "$1" >/dev/null || [ -e "$1" ] || packages+=("$2")
}
need cc gcc
need make make
need /usr/include/stdlib.h libc6-dev
need setpriv util-linux

install_packages() {
    [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] || return 0
    echo "Installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update && apt-get -qq install --no-install-recommends "${packages[@]}" >/dev/null
    packages=()
}

all_there() { # who asks, and how it is told to install
    local version line
    version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
    if [ -z "$version" ]; then
        missing+=("Rust $rust or newer (https://rustup.rs)")
    elif [ "$(printf '%s\n' "$rust" "$version" | sort -V | head -1)" != "$rust" ]; then
        missing+=("Rust $rust or newer (this is $version; https://rustup.rs)")
    fi
    if [ ${#packages[@]} -gt 0 ]; then
        missing+=("packages ${packages[*]} ($2 as root, or apt-get install ${packages[*]})")
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    line=$(printf '; %s' "${missing[@]}")
    echo "$1: missing: ${line:2}" >&2
    exit 2
}

build() { # binaries
    echo "Building (some minutes the first time)"
    cargo build --release --locked --quiet --package bascule --package bascule-tests --package bascule-bench \
        "${@/#/--bin=}"
    # One session is two descriptors of a proxy and one of its client.
    ulimit -Sn "$(ulimit -Hn)"
}
