#!/usr/bin/env bash
# A private Docker engine on a Debian-family machine: its own containerd, socket, data, bridge and
# firewall rules. It shares nothing with another engine on the machine except the programs.
set -Eeuo pipefail
PATH=$PATH:/usr/sbin:/sbin # not in everybody's
trap 'printf "error: docker/engine.sh stopped at line %s\n" "$LINENO" >&2' ERR

usage() {
    cat <<'TEXT'
usage: docker/engine.sh [--name NAME] up | down [--purge] | status

  up        install what is missing (docker.io, docker-buildx, debootstrap) and start the engine;
            does nothing if it is running
  down      stop this engine and remove its bridge, firewall rules and socket; images stay
  down --purge
            the same, and delete its images, containers and build cache
  status    print socket, version and state; exit status 0 when running, 1 when not

  --name NAME   another engine beside the first (default: gpt-frontend); its socket is
                /run/NAME/docker.sock and its data is under /var/lib/NAME

up and down need root. Debian 12 takes the engine from Debian 13 without adding an apt source.
TEXT
}

say() { printf '%s\n' "$*"; }

# fail MESSAGE HINT [EXIT]
fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit "${3:-1}"
}

usage_fault() { fail "$1" "see docker/engine.sh --help" 2; }

need_root() {
    [[ $EUID -eq 0 ]] || fail "docker/engine.sh $1 needs root" "sudo docker/engine.sh $1" 2
}

# --- what belongs to this engine -------------------------------------------------------------

set_names() {
    RUN=/run/$NAME                  # a tmpfs: gone after a reboot, as sockets and pids should be
    DATA=/var/lib/$NAME
    SOCKET=$RUN/docker.sock
    BRIDGE=br-$NAME                 # 15 characters at most, hence the limit on NAME
    DOCKERD_PID=$RUN/dockerd.pid
    DOCKERD_CONFIG=$RUN/dockerd.json
    DOCKERD_LOG=$DATA/dockerd.log
    CONTAINERD_PID=$RUN/containerd.pid
    CONTAINERD_CONFIG=$RUN/containerd.toml
    CONTAINERD_SOCKET=$RUN/containerd.sock
    CONTAINERD_LOG=$DATA/containerd.log
}

# The pid in file $1, if that process was started with our configuration file $2. A stale pidfile
# may name a stranger, so the number alone proves nothing.
our_pid() {
    local pid
    [[ -r $1 ]] && pid=$(<"$1") && [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
    tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "$2" || return 1
    printf '%s' "$pid"
}

dockerd_pid() { our_pid "$DOCKERD_PID" "--config-file=$DOCKERD_CONFIG"; }
containerd_pid() { our_pid "$CONTAINERD_PID" "--config=$CONTAINERD_CONFIG"; }

# The limit: a wedged daemon must not hang the script.
ask_version() {
    local version # docker prints an empty line where it gets no answer
    version=$(timeout 10 docker --host "unix://$SOCKET" version --format '{{.Server.Version}}' \
        2>/dev/null) && printf '%s' "$version"
}
answers() { ask_version >/dev/null; }

# --- installing ------------------------------------------------------------------------------

missing_packages() {
    local -a names=()
    command -v dockerd >/dev/null || names+=(docker.io iptables)
    command -v debootstrap >/dev/null || names+=(debootstrap)
    # Debian 13 split the client from docker.io; elsewhere it comes with the engine.
    if ! command -v docker >/dev/null && [[ $DISTRIBUTION == debian ]]; then names+=(docker-cli); fi
    docker buildx version >/dev/null 2>&1 || names+=(docker-buildx)
    # So that an Ubuntu machine can check what debootstrap fetches.
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || names+=(debian-archive-keyring)
    printf '%s\n' "${names[@]}"
}

# Debian 12's engine is 20.10, which has neither buildx nor timestamp rewriting. The entries of
# the next release are derived from the machine's own, so a mirror keeps being used; they live in
# a temporary folder that only these apt calls see.
derive_trixie() { # FROM INTO
    local from=$1 into=$2 file
    for file in "$from"/sources.list "$from"/sources.list.d/*.list; do
        [[ -r $file ]] || continue
        sed -nE 's/^[[:space:]]*(deb[[:space:]]+(\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+)bookworm((-security|-updates)?[[:space:]])/\1trixie\3/p' \
            "$file"
    done >"$into/trixie.list"
    for file in "$from"/sources.list.d/*.sources; do
        [[ -r $file ]] || continue
        awk 'BEGIN { RS = ""; ORS = "\n\n" }
             { gsub(/(^|\n)#[^\n]*/, "") }
             /(^|\n)Types:[^\n]*deb([ \n]|$)/ && /(^|\n)Suites:[^\n]*[ \t]bookworm([ \t\n-]|$)/ &&
             !/(^|\n)Enabled:[ \t]*(no|false)/ {
                 count = split($0, lines, "\n"); text = ""
                 for (i = 1; i <= count; i++) {
                     line = lines[i]
                     if (line ~ /^Suites:/) {
                         words = split(line, word, /[ \t]+/); line = "Suites:"
                         for (j = 2; j <= words; j++)
                             if (word[j] ~ /^bookworm(-security|-updates)?$/) {
                                 sub(/^bookworm/, "trixie", word[j]); line = line " " word[j]
                             }
                     }
                     if (line != "") text = text (text == "" ? "" : "\n") line
                 }
                 if (text ~ /\nSuites: trixie/) print text
             }' "$file"
    done >"$into/trixie.sources"
    grep -qs . "$into/trixie.list" "$into/trixie.sources" ||
        fail "no Debian bookworm entry among this machine's apt sources" \
            "add one, or install docker.io and docker-buildx yourself and run this again"
}

install_packages() {
    local -a packages=("$@") options=()
    local scratch policy=/usr/sbin/policy-rc.d placed=""
    say "installing: ${packages[*]}"
    command -v apt-get >/dev/null ||
        fail "this machine has no apt-get" "install docker, docker buildx and debootstrap yourself" 2
    scratch=$(mktemp -d)
    # An install must start no engine: the machine's owner did not ask for a second one.
    [[ -e $policy ]] || placed=$policy
    # shellcheck disable=SC2064  # the values of now are wanted
    trap "rm -rf '$scratch' ${placed:+'$placed'}" EXIT
    chmod 755 "$scratch"
    if [[ $placed ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    if [[ $DISTRIBUTION == debian && $SUITE == bookworm ]]; then
        mkdir "$scratch/sources" "$scratch/preferences" "$scratch/lists" "$scratch/cache"
        local file
        for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
            if [[ -r $file ]]; then cp "$file" "$scratch/sources/"; fi
        done
        derive_trixie /etc/apt "$scratch/sources"
        cp /etc/apt/preferences.d/* "$scratch/preferences/" 2>/dev/null || : # often empty
        # Only the engine itself comes from there: its C library needs are met by Debian 12. With
        # a plain "-t trixie" the firewall tools would pull in the next release's C library.
        cat >"$scratch/preferences/00-trixie" <<'PIN'
Package: docker.io docker-cli docker-buildx containerd
Pin: release n=trixie*
Pin-Priority: 990

Package: *
Pin: release n=trixie*
Pin-Priority: -10
PIN
        options=(-o "Dir::Etc::sourcelist=/dev/null"
            -o "Dir::Etc::sourceparts=$scratch/sources"
            -o "Dir::Etc::preferencesparts=$scratch/preferences"
            -o "Dir::State::lists=$scratch/lists"
            -o "Dir::Cache=$scratch/cache"
            -o "APT::Sandbox::User=root")
    fi
    # A third party's entry may fail without harm: what counts is whether our packages are found.
    apt-get "${options[@]}" -o Acquire::Retries=3 -qq update ||
        say "warning: apt-get update had errors; going on with what it found"
    # --no-remove: better to stop than to take another engine's packages away.
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" -qq install --yes --no-remove \
        --no-install-recommends "${packages[@]}" >"$scratch/install.log" 2>&1 || {
        tail -n 15 "$scratch/install.log" >&2
        fail "apt-get could not install ${packages[*]}" \
            "check the network and the apt sources (apt-get update), then run this again"
    }
    # The package would start its engine at the next boot; only the one asked for shall run.
    if [[ " ${packages[*]} " == *" docker.io "* ]] && command -v systemctl >/dev/null; then
        systemctl disable --quiet docker.service docker.socket 2>/dev/null || : # no systemd running
    fi
    rm -rf "$scratch" ${placed:+"$placed"}
    trap - EXIT
}

install_missing() {
    # In a subshell: the file also sets NAME.
    # shellcheck source=/dev/null
    read -r DISTRIBUTION SUITE < <(. /etc/os-release && echo "${ID:-none} ${VERSION_CODENAME:-none}")
    local -a packages
    mapfile -t packages < <(missing_packages)
    if [[ ${packages[*]} ]]; then install_packages "${packages[@]}"; fi
}

# --- network ---------------------------------------------------------------------------------

# The first two numbers of a /16 that no address or route of this machine touches.
free_subnet() {
    local taken candidate
    taken=$(ip -4 -o addr show | awk '{print $4}'; ip -4 route show | awk '{print $1}')
    for candidate in 172.29:172.16.0.0/12 10.213:10.0.0.0/8 172.27:172.16.0.0/12 10.219:10.0.0.0/8 \
        192.168:192.168.0.0/16; do
        # The whole private range is routed somewhere (a VPN): leave it alone.
        grep -qxF "${candidate#*:}" <<<"$taken" && continue
        grep -qE "^${candidate%%:*}\\." <<<"$taken" && continue
        printf '%s' "${candidate%%:*}"
        return
    done
    fail "no free private address range for the engine's bridge" "see: ip -4 route"
}

# firewall -I|-D: dockerd itself is told to keep its hands off the firewall, because at its start
# it empties the DOCKER chains, which another engine may be using.
firewall() {
    local action=$1 net rule
    net=$(<"$RUN/subnet").0.0/16
    local -a rules=(
        "nat POSTROUTING -s $net ! -d $net -j MASQUERADE"
        "filter FORWARD -s $net -j ACCEPT"
        "filter FORWARD -d $net -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        "filter FORWARD -s $net -d $net -j ACCEPT"
    )
    for rule in "${rules[@]}"; do
        local -a word
        read -ra word <<<"$rule"
        local -a spec=("${word[1]}" -m comment --comment "$NAME" "${word[@]:2}")
        if iptables -w -t "${word[0]}" -C "${spec[@]}" 2>/dev/null; then
            [[ $action == -I ]] || iptables -w -t "${word[0]}" -D "${spec[@]}"
        elif [[ $action == -I ]]; then
            iptables -w -t "${word[0]}" -I "${spec[@]}" ||
                fail "iptables refused a rule for the engine's bridge" \
                    "check that the kernel has NAT support: iptables -t nat -L"
        fi
    done
}

network_up() {
    [[ -s $RUN/subnet ]] || free_subnet >"$RUN/subnet"
    [[ -s $RUN/subnet ]] || exit 1
    if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
        ip link add name "$BRIDGE" type bridge ||
            fail "cannot create the network bridge $BRIDGE" "this machine needs CAP_NET_ADMIN"
    fi
    # The lower half is the bridge's; networks made later take theirs from the upper half.
    ip addr replace "$(<"$RUN/subnet").0.1/17" dev "$BRIDGE"
    ip link set "$BRIDGE" up
    firewall -I
}

network_down() {
    if [[ -s $RUN/subnet ]]; then firewall -D; fi
    if ip link show "$BRIDGE" >/dev/null 2>&1; then ip link delete "$BRIDGE"; fi
}

# --- the daemons -----------------------------------------------------------------------------

# launch PIDFILE LOG COMMAND…: detached from this terminal; the lock (fd 9) is not inherited.
launch() {
    local pidfile=$1 log=$2
    shift 2
    setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
    printf '%s\n' "$!" >"$pidfile"
    disown
}

# wait_for SECONDS COMMAND…
wait_for() {
    local tries=$(($1 * 5))
    shift
    until "$@"; do
        ((tries-- > 0)) || return 1
        sleep 0.2
    done
}

start_failed() {
    printf '%s\n' "--- last lines of $2" >&2
    tail -n 15 "$2" >&2
    stop_daemons
    network_down
    fail "$1 did not start" "the lines above are from $2; is there space under $DATA?"
}

write_configs() {
    cat >"$CONTAINERD_CONFIG" <<TOML
version = 2
root = "$DATA/containerd"
state = "$RUN/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$CONTAINERD_SOCKET"
[ttrpc]
  address = "$CONTAINERD_SOCKET.ttrpc"
TOML
    # The containerd image store keeps manifest digests through load and save.
    cat >"$DOCKERD_CONFIG" <<JSON
{
  "features": {"containerd-snapshotter": true},
  "hosts": ["unix://$SOCKET"],
  "data-root": "$DATA/docker",
  "exec-root": "$RUN/exec",
  "pidfile": "$RUN/dockerd.self.pid",
  "containerd": "$CONTAINERD_SOCKET",
  "bridge": "$BRIDGE",
  "iptables": false,
  "ip6tables": false,
  "default-address-pools": [{"base": "$(<"$RUN/subnet").128.0/17", "size": 24}],
  "log-driver": "json-file"
}
JSON
}

start_daemons() {
    : >"$CONTAINERD_LOG"
    : >"$DOCKERD_LOG"
    launch "$CONTAINERD_PID" "$CONTAINERD_LOG" containerd "--config=$CONTAINERD_CONFIG"
    wait_for 30 test -S "$CONTAINERD_SOCKET" || start_failed containerd "$CONTAINERD_LOG"
    launch "$DOCKERD_PID" "$DOCKERD_LOG" dockerd "--config-file=$DOCKERD_CONFIG"
    wait_for 60 ready_or_dead || : # too late is told by the next line
    answers || start_failed dockerd "$DOCKERD_LOG"
    # The person who typed sudo may use the engine without it; nobody else is let in.
    if [[ ${SUDO_UID:-} ]]; then chown "$SUDO_UID" "$SOCKET"; fi
}

# The bare number will do here: the process is our child, and its command line is the daemon's only
# once it has gone through exec.
ready_or_dead() { gone "$(<"$DOCKERD_PID")" || { [[ -S $SOCKET ]] && answers; }; }

stop_one() {
    local pid=$1 patience=$2
    kill -TERM "$pid" 2>/dev/null || return 0
    wait_for "$patience" gone "$pid" || kill -KILL "$pid" 2>/dev/null || :
    wait_for 5 gone "$pid" || fail "process $pid does not end" "look at /proc/$pid/status"
}

gone() { [[ ! -e /proc/$1 ]] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

stop_daemons() {
    local pid
    # dockerd stops its containers first and gives each 10 s.
    if pid=$(dockerd_pid); then stop_one "$pid" 40; fi
    # A daemon that was killed leaves the shims of its containers behind; they name our socket.
    for pid in /proc/[0-9]*; do
        pid=${pid#/proc/}
        if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" |
            grep -q -- "^[^ ]*containerd-shim.* -address $CONTAINERD_SOCKET "; then
            stop_one "$pid" 5
        fi
    done
    if pid=$(containerd_pid); then stop_one "$pid" 10; fi
}

unmount_under() {
    awk -v root="$1/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
        while read -r target; do umount -l "$target"; done
}

# --- verbs -----------------------------------------------------------------------------------

describe() {
    say "socket:  unix://$SOCKET"
    if ! dockerd_pid >/dev/null; then
        say "state:   not running"
        return 1
    fi
    say "version: $(ask_version || printf 'unknown (no answer, or no permission for the socket)')"
    say "state:   running, pid $(dockerd_pid)"
}

up() {
    need_root up
    install_missing
    if dockerd_pid >/dev/null && answers; then
        network_up # a firewall that was reloaded has lost our rules
        describe
        return
    fi
    mkdir -p "$RUN" "$DATA"
    chmod 755 "$RUN"
    chmod 711 "$DATA"
    stop_daemons # one of the two may be left from a crash
    rm -f "$SOCKET" "$CONTAINERD_SOCKET" "$RUN/dockerd.self.pid"
    network_up
    write_configs
    start_daemons
    describe
}

down() {
    need_root down
    stop_daemons
    network_down
    unmount_under "$RUN"
    rm -rf "$RUN"
    if [[ $1 == purge ]]; then
        unmount_under "$DATA"
        rm -rf "$DATA"
    fi
    say "socket:  unix://$SOCKET"
    say "state:   not running"
}

main() {
    NAME=gpt-frontend
    if [[ ${1:-} == --name ]]; then
        NAME=${2:-}
        [[ $NAME =~ ^[a-z][a-z0-9-]{0,11}$ ]] ||
            usage_fault "--name takes 1 to 12 of a-z, 0-9 and -, beginning with a letter"
        shift 2
    fi
    set_names
    local verb=${1:-} rest=("${@:2}")
    case "$verb ${rest[*]}" in
        "--help " | "-h ") usage ;;
        "status ") describe || exit 1 ;;
        "up " | "down " | "down --purge")
            need_root "$verb"
            exec 9>"/run/$NAME.lock" # two at once would start two daemons
            flock 9
            if [[ $verb == up ]]; then up; else down "${rest[*]#--}"; fi
            ;;
        " ") usage_fault "say what to do: up, down or status" ;;
        *) usage_fault "unknown: $verb ${rest[*]}" ;;
    esac
}

# Sourced (by the tests), the script only defines its functions.
if [[ ${BASH_SOURCE[0]:-$0} == "$0" ]]; then main "$@"; fi
