#!/usr/bin/env bash
# Installs missing Debian packages without starting their servers: apt.sh PACKAGE...
# Without apt or root it changes nothing and exits with status 1.
set -euo pipefail

missing=()
for package in "$@"; do
    [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
    exit 1
elif ((EUID == 0)); then
    root=()
elif sudo -n true 2>/dev/null; then
    root=(sudo)
else
    exit 1
fi

# One run at a time: two would conflict over the packages and the file below. The lock is on this script, and the programs
# that it starts do not inherit it.
[[ -n ${MILLRACE_APT_LOCKED:-} ]] || MILLRACE_APT_LOCKED=yes exec flock --close "$0" "$0" "$@"

# Debian starts a server right after its installation, on its public default ports, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
fi

echo "installing ${missing[*]}"
log=$(mktemp)
install() {
    "${root[@]}" apt-get update -q && "${root[@]}" env DEBIAN_FRONTEND=noninteractive ERL_EPMD_ADDRESS=127.0.0.1 \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}
install </dev/null >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
rm -f "$log"
