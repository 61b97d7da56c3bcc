# What the scripts of one server each share: sourced by them, with $here, $home, $container and `environment` set, and with
# functions of their own: `start`, and `answers`, which says whether the server answers in its own protocol.
# shellcheck shell=bash disable=SC2154

# Starts a program in a session of its own, so that it outlives its caller, and keeps its pid.
launch() {
    local name=$1
    shift
    mkdir -p "$home/log"
    (exec "${environment[@]}" setsid "$@" </dev/null >>"$home/log/$name.out" 2>&1) &
    echo "$! $(birth $!)" >"$home/$name.pid"
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

# A pid may belong to a stranger by now, so its hour of birth is kept beside it.
running() {
    local pid born
    [[ -s $home/$1.pid ]] && read -r pid born <"$home/$1.pid" && [[ -n $born && $(birth "$pid") == "$born" ]]
}

birth() {
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

# Whether a node can listen on these ports. One that was just killed may hold them a moment longer than it is seen to
# run: its first thread ends before the others do.
ports_free() { no_port_open "$@" || { [[ -s $home/node.pid ]] && wait_until 10 no_port_open "$@"; }; }

no_port_open() {
    local port
    for port; do
        ! port_open "$port" || return 1
    done
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The Nth byte of what a port of this machine answers to these bytes: reply PORT N BYTES (as printf writes them).
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

# A certificate of 127.0.0.1 in $home/tls: ca.pem for clients; cert.pem and key.pem for the server, and both with the CA
# in server.pem. Made once, and again when it nears its end.
certify() {
    local tls=$home/tls
    openssl x509 -checkend 86400 -noout -in "$tls/server.pem" >/dev/null 2>&1 && return
    command -v openssl >/dev/null || "$here/apt.sh" openssl || fail "no openssl here, and no right to install it"
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
    } >"$home/log/openssl.out" 2>&1 || fail "openssl cannot make a certificate: see $home/log/openssl.out"
    rm "$tls/ca-key.pem" "$tls/request.pem" "$tls/extensions"
    cat "$tls/key.pem" "$tls/cert.pem" "$tls/ca.pem" >"$tls/server.pem" # the last one: it is what is looked for
}

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2; }

fail() {
    echo "${0##*/}: $1" >&2
    exit 1
}
