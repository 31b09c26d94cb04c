#!/bin/sh
# Makes a phone or a board a device of shardnet. `shardnet wheel` has filled in what follows.
#
#   sh setup.sh                       in Termux, or in Debian and Ubuntu, also under proot-distro
#   sh setup.sh --debian              in Termux: sets up Debian under proot-distro, and shardnet in it
#   sh setup.sh --at-boot [OPTION...] in Termux, besides: start `shardnet join OPTION...` with the phone
#
# Run again, it brings everything up to date.
set -eu

from='@FROM@'
wheel='@WHEEL@'
sha256='@SHA256@'
termux_packages='@TERMUX_PACKAGES@'
pure='@PURE@'
torch_on_arm='@TORCH_ON_ARM@'

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'setup.sh: %s\n' "$*" >&2
    exit 1
}

is_wheel() { [ -f "$1" ] && printf '%s  %s\n' "$sha256" "$1" | sha256sum -c >/dev/null 2>&1; }

# The wheel lies beside this script, or comes from the machine that has shown the hash of this script. Who answers
# there is not asked (-k): what it sends counts only if its hash is the one above.
find_wheel() {
    folder=$(cd "$(dirname "$0")" && pwd)
    is_wheel "$folder/$wheel" && return
    [ -n "$from" ] || fail "$wheel does not lie beside this script, or is damaged. Copy both again."
    say "fetching $wheel"
    curl -kfsS "$from/$wheel" -o "$folder/$wheel" ||
        fail "$from does not answer. Is shardnet wheel --serve still running there, and is this the same Wi-Fi?"
    is_wheel "$folder/$wheel" || fail "what $from has sent is not what it has promised. Take the line from its screen again."
}

set_up_termux() {
    say "installing packages of Termux"
    # shellcheck disable=SC2086 # a list
    pkg install -y python python-pip $termux_packages || fail "pkg install failed. Run pkg upgrade, and this again."
    say "installing shardnet"
    # shellcheck disable=SC2086 # a list
    pip install --no-deps --upgrade $pure
    pip install --no-deps --force-reinstall "$folder/$wheel"
}

set_up_linux() {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        [ "$(id -u)" = 0 ] || fail "python3-venv is missing. Run: sudo apt-get install python3-venv"
        apt-get update
        apt-get install -y python3 python3-venv
    fi
    case $(uname -m) in
        aarch64 | arm64) torch=$torch_on_arm ;;
        *) torch=torch ;;
    esac
    say "installing torch and shardnet into $HOME/.shardnet"
    python3 -m venv "$HOME/.shardnet"
    "$HOME/.shardnet/bin/pip" install "$torch" numpy psutil cryptography
    # shellcheck disable=SC2086 # a list
    "$HOME/.shardnet/bin/pip" install --no-deps --upgrade $pure
    "$HOME/.shardnet/bin/pip" install --no-deps --force-reinstall "$folder/$wheel"
}

# The same script once more, in Debian: the folder with the wheel is bound there.
set_up_debian() {
    pkg install -y proot-distro
    proot-distro login debian -- true 2>/dev/null || proot-distro install debian
    proot-distro login debian --bind "$folder:/root/shardnet-setup" -- sh "/root/shardnet-setup/$(basename "$0")"
    write_program "$PREFIX/bin/shardnet" 'exec proot-distro login debian -- /root/.shardnet/bin/shardnet "$@"'
}

start_at_boot() {
    mkdir -p "$HOME/.termux/boot"
    options=
    for option in "$@"; do
        options="$options '$(printf '%s' "$option" | sed "s/'/'\\\\''/g")'"
    done
    write_program "$HOME/.termux/boot/shardnet" \
        "$PREFIX/bin/termux-wake-lock" \
        "exec $PREFIX/bin/shardnet join$options >$HOME/shardnet-join.log 2>&1"
    say "with the app Termux:Boot, opened once, this phone joins again after a reboot; see $HOME/shardnet-join.log"
}

write_program() {
    program=$1
    shift
    {
        printf '#!%s/bin/sh\n' "$PREFIX"
        printf '%s\n' "$@"
    } >"$program"
    chmod 700 "$program"
}

is_termux=no
case ${PREFIX-} in
    *com.termux*) is_termux=yes ;;
esac

in_debian=no
if [ "${1-}" = --debian ]; then
    [ "$is_termux" = yes ] || fail "--debian is for Termux. Here, leave it out."
    in_debian=yes
    shift
fi
at_boot=no
if [ "${1-}" = --at-boot ]; then
    [ "$is_termux" = yes ] || fail "--at-boot is for Termux. Elsewhere let systemd or cron start shardnet join."
    at_boot=yes
    shift
fi
[ "$at_boot" = yes ] || [ $# = 0 ] || fail "unknown option $1. There are --debian and --at-boot."

find_wheel
command=shardnet
if [ "$in_debian" = yes ]; then
    set_up_debian
elif [ "$is_termux" = yes ]; then
    set_up_termux
else
    set_up_linux
    command=$HOME/.shardnet/bin/shardnet
fi
[ "$at_boot" = no ] || start_at_boot "$@"
say "done. Look what is still wrong here: $command doctor"
say "then join the cluster whose code your laptop shows: $command join CODE"
