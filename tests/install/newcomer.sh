#!/usr/bin/env bash
# From nothing to a validator's daemon that shows its console, as a newcomer types it in a clean Debian: at most five
# commands. Prints each one with what it says, and fails when one fails, when they are more, or when no console answers.
#
#     newcomer.sh PACKAGE HOTKEY NETWORK
#
# PACKAGE is the .deb, HOTKEY the validator's hotkey as btcli wrote it on the machine where it was made, NETWORK what
# `service install` takes: finney, or a network's file. Installs for good: run it in a root that can be thrown away.
#
# Where systemd runs, the last command is `systemctl enable --now p2pnodes`; elsewhere it is the line that
# `service install` says instead.
set -euo pipefail
(($# == 3)) || { printf 'newcomer: expected PACKAGE, HOTKEY and NETWORK\n' >&2; exit 2; }
package=$1 hotkey=$2 network=$3
readonly COMMANDS_MAX=5 WAIT_S_MAX=60
typed=0 daemon=

fail() { printf 'newcomer: %s\n' "$1" >&2; exit 1; }
prompt() { typed=$((typed + 1)) && printf '\n[%s] # %s\n' "$typed" "$*"; }
enter() { prompt "$@" && "$@"; }
# shellcheck disable=SC2317 # called by the trap
stop() { [[ -z $daemon ]] || { kill "$daemon" && wait "$daemon"; } || true; }
trap stop EXIT

began=$SECONDS
enter apt-get update -qq
enter apt-get install -qq --no-install-recommends "$package"
enter install -Dm600 "$hotkey" ~/.bittensor/wallets/validator/hotkeys/default
install=(p2pnodes service install --network "$network" --wallet validator --yes)
prompt "${install[@]}"
"${install[@]}" | tee /tmp/said
if [[ -d /run/systemd/system ]]; then
    enter systemctl enable --now p2pnodes
else
    start=$(sed -n '/^then:$/{n;s/^ *//p}' /tmp/said)
    prompt "$start &"
    $start 2>/tmp/daemon.log &
    daemon=$!
fi
url=$(sed -n 's/^its console: //p' /tmp/said)
[[ -n $url ]] || fail 'service install named no console'

# What a browser does is no command.
page() {
    python3 - "$1" <<'END'
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
    text = answer.read().decode()
    sys.exit(not (answer.headers.get_content_type() == "text/html" and "p2pnodes" in text))
END
}
deadline=$((SECONDS + WAIT_S_MAX))
until page "$url" 2>/tmp/page.log; do
    [[ -z $daemon ]] || kill -0 "$daemon" 2>/dev/null || fail "the daemon ended: $(tail -n 1 /tmp/daemon.log)"
    ((SECONDS < deadline)) || fail "no console at $url after $WAIT_S_MAX s: $(tail -n 1 /tmp/page.log)"
    sleep 0.2
done
printf '\nits console is at %s, %s s after the first command\n' "$url" "$((SECONDS - began))"

((typed <= COMMANDS_MAX)) || fail "$typed commands; expected at most $COMMANDS_MAX"
printf '%s commands\n' "$typed"

printf '\nwhat it says of itself:\n'
p2pnodes status | sed -n 1,24p
