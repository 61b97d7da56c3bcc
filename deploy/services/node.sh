# Functions shared by the scripts of the servers. A script that sources this file sets $here, $home, $container and
# `environment`, and has the functions `start` and `answers` (true if the server answers in its own protocol).
# shellcheck shell=bash disable=SC2154

# Starts a program in a new session, so that it outlives its caller, and writes its pid and start time to a file.
launch() {
    local name=$1
    shift
    mkdir -p "$home/log"
    (exec "${environment[@]}" setsid "$@" </dev/null >>"$home/log/$name.out" 2>&1) &
    echo "$! $(start_time $!)" >"$home/$name.pid"
}

stop_node() {
    alive || return 0
    if in_docker; then
        docker stop --time 30 "$container" >/dev/null
    else
        kill "$(pid node)"
        wait_until 30 not_running node || kill_node
    fi
}

kill_node() {
    alive || return 0
    if in_docker; then
        docker kill "$container" >/dev/null
    else
        kill -9 "$(pid node)"
        wait_until 10 not_running node
    fi
}

# A pid may be reused by another process, so the start time is compared too.
running() {
    local pid started
    [[ -s $home/$1.pid ]] && read -r pid started <"$home/$1.pid" && [[ -n $started && $(start_time "$pid") == "$started" ]]
}

start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    read -ra stat <<<"${stat##*) }"
    [[ ${stat[0]} == Z ]] || echo "${stat[19]}"
}

pid() { cut -d ' ' -f 1 "$home/$1.pid"; }
not_running() { ! running "$1"; }

alive() {
    if in_docker; then
        [[ $(docker inspect --format '{{.State.Running}}' "$container" 2>/dev/null) == true ]]
    else
        running node
    fi
}

in_docker() { [[ $(cat "$home/mode" 2>/dev/null) == docker ]]; }

# True if a node can listen on these ports. A node that was just killed may hold them a moment after `running` is false,
# because its first thread ends before the others.
ports_free() { no_port_open "$@" || { [[ -s $home/node.pid ]] && wait_until 10 no_port_open "$@"; }; }

no_port_open() {
    local port
    for port; do
        ! port_open "$port" || return 1
    done
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints the Nth byte of the response of a port of this machine to a request: reply PORT N REQUEST (a format of printf).
reply() {
    # shellcheck disable=SC2059
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "$3" >&3 && timeout 2 head -c "$2" <&3 | tail -c +"$2" | od -An -tu1 | tr -d ' ') 2>/dev/null ||
        true
}

ready_or_dead() { answers || ! alive; }

wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# Creates a certificate for 127.0.0.1 in $home/tls: ca.pem for clients, cert.pem and key.pem for the server, and all three
# in server.pem. It is created once, and again a day before it expires.
certify() {
    local tls=$home/tls
    openssl x509 -checkend 86400 -noout -in "$tls/server.pem" >/dev/null 2>&1 && return
    command -v openssl >/dev/null || "$here/apt.sh" openssl || fail "openssl is missing and cannot be installed"
    rm -rf "$tls"
    mkdir "$tls"
    chmod 700 "$tls"
    cat >"$tls/extensions" <<-END
	basicConstraints = critical, CA:FALSE
	keyUsage = critical, digitalSignature
	extendedKeyUsage = serverAuth
	subjectAltName = IP:127.0.0.1
	authorityKeyIdentifier = keyid
	END
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    {
        openssl req -x509 "${key[@]}" -days 3650 -subj "/CN=millrace tests" -addext "keyUsage = critical, keyCertSign, cRLSign" \
            -keyout "$tls/ca-key.pem" -out "$tls/ca.pem"
        openssl req "${key[@]}" -subj "/CN=127.0.0.1" -keyout "$tls/key.pem" -out "$tls/request.pem"
        openssl x509 -req -in "$tls/request.pem" -CA "$tls/ca.pem" -CAkey "$tls/ca-key.pem" -days 3650 \
            -extfile "$tls/extensions" -out "$tls/cert.pem"
    } >"$home/log/openssl.out" 2>&1 || fail "openssl cannot create a certificate: see $home/log/openssl.out"
    rm "$tls/ca-key.pem" "$tls/request.pem" "$tls/extensions"
    cat "$tls/key.pem" "$tls/cert.pem" "$tls/ca.pem" >"$tls/server.pem" # written last: its presence means that all are there
}

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2; }

fail() {
    echo "${0##*/}: $1" >&2
    exit 1
}
