#!/usr/bin/env bash
# One RabbitMQ node of this checkout, for tests, benchmarks and experiments: on 127.0.0.1 only, data in .services/rabbitmq.
#
#   rabbitmq.sh start       install RabbitMQ if needed, start the node, and wait until it answers; no effect if it runs
#   rabbitmq.sh stop        stop the node and its epmd cleanly
#   rabbitmq.sh kill        SIGKILL the node; `start` starts it again with its data
#   rabbitmq.sh restart     stop the node cleanly and start it again
#   rabbitmq.sh alarm on    raise the memory alarm and wait until it is raised (the node stops reading from publishers)
#   rabbitmq.sh alarm off   clear the alarm
#   rabbitmq.sh status      print whether the node runs; exit status 0 if it does, 3 if not
#   rabbitmq.sh url         print its AMQP address
#   rabbitmq.sh secure-url  print its AMQP address over TLS
#   rabbitmq.sh ctl ...     rabbitmqctl with the right node and cookie
#
# Ports: AMQP $MILLRACE_RABBITMQ_PORT (25672), over TLS -1, management +1, Prometheus +20, streams -120, Erlang -2, epmd -3.
# If the Debian package is missing and cannot be installed, the same node runs in Docker, if there is one, without TLS.
#
# rabbitmq4.sh has the same commands for a node of RabbitMQ 4: data in .services/rabbitmq4, AMQP on
# $MILLRACE_RABBITMQ4_PORT (25772). Debian 12 has RabbitMQ 3.10, so the node runs in a small Debian 13, which debootstrap
# installs into .cache/rabbitmq4 (as root).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
bin=/usr/lib/rabbitmq/bin # not /usr/sbin: those wrappers change the user
if [[ ${MILLRACE_RABBITMQ_GENERATION:-3} == 4 ]]; then
    name=rabbitmq4 setting=RABBITMQ4 port=${MILLRACE_RABBITMQ4_PORT:-} default_port=25772 debian=$checkout/.cache/rabbitmq4
else
    name=rabbitmq setting=RABBITMQ port=${MILLRACE_RABBITMQ_PORT:-} default_port=25672 debian=
fi
home=$checkout/.services/$name
port=${port:-$(cat "$home/port" 2>/dev/null || echo $default_port)}
container=millrace-$name-$port
memory_limit=2GB
# shellcheck source=node.sh
. "$here/node.sh"

# The node inherits nothing from the caller's environment, and shares no port or name with other nodes of this machine.
loopback='-kernel inet_dist_use_interface {127,0,0,1}'
environment=(
    env -i HOME="$home" LC_ALL=C.UTF-8 PATH="$bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ERL_EPMD_PORT=$((port - 3)) ERL_EPMD_ADDRESS=127.0.0.1
    RABBITMQ_NODENAME="millrace-$port@localhost" RABBITMQ_DIST_PORT=$((port - 2)) RABBITMQ_CONF_ENV_FILE=/dev/null
    RABBITMQ_MNESIA_BASE="$home/data" RABBITMQ_LOG_BASE="$home/log" RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf"
    RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins"
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="$loopback" RABBITMQ_CTL_ERL_ARGS="$loopback"
    RABBITMQ_SCHEDULER_BIND_TYPE=u # otherwise each scheduler is bound to a core, even a busy one
    ERL_CRASH_DUMP="$home/log/erl_crash.dump"
    RUNNING_UNDER_SYSTEMD=yes # makes the script exec the node, without a shell as its parent
)
[[ -z $debian ]] || environment+=(chroot "$debian")

main() {
    case "${1:-}" in
        start) start ;;
        stop) stop ;;
        kill) kill_node ;;
        restart) stop_node && start ;;
        alarm) alarm "${2:-}" ;;
        status) status ;;
        url) url ;;
        secure-url) secure_url ;;
        install) install_debian ;; # the first step of `start` in rabbitmq4.sh
        ctl) shift && ctl "$@" ;;
        *) usage ;;
    esac
}

start() {
    if alive && answers; then return; fi
    if installed; then
        start_package
    elif command -v docker >/dev/null; then
        start_container
    else
        fail "RabbitMQ is missing and cannot be installed: run this as root on Debian, start Docker, or set MILLRACE_TEST_${setting}_URL"
    fi
    wait_until 90 ready_or_dead && answers ||
        fail "RabbitMQ does not answer on port $port: see $home/log"
    # The node opens its port before the boot is complete.
    ctl await_startup
}

installed() {
    if [[ -z $debian ]]; then
        [[ -x $bin/rabbitmq-server ]] || "$here/apt.sh" rabbitmq-server
    elif [[ ! -e $debian/complete ]]; then
        ((EUID == 0)) && "$here/apt.sh" debootstrap && install_debian
    fi
}

# Installs into a temporary folder and renames it last, so that an interrupted installation is started again.
install_debian() {
    mkdir -p "${debian%/*}"
    # One run at a time; the lock is on the script, and the programs that it starts do not inherit it.
    [[ -n ${MILLRACE_DEBIAN_LOCKED:-} ]] ||
        { MILLRACE_DEBIAN_LOCKED=yes flock --close "$here/rabbitmq4.sh" "$here/rabbitmq4.sh" install; return; }
    [[ ! -e $debian/complete ]] || return 0
    local mirror unfinished
    remove_tree "$debian"
    for unfinished in "$debian".unfinished.*; do
        # The process named in it may still run: if only `flock` was killed, the installation goes on without the lock.
        grep -aqs rabbitmq.sh "/proc/${unfinished##*.}/cmdline" || remove_tree "$unfinished"
    done
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 'Created-By: Packages' | head -n 1)
    unfinished=$debian.unfinished.$$
    mkdir -m 755 "$unfinished"
    echo "fetching RabbitMQ 4 and a Debian 13 for it"
    own_mounts debootstrap --variant=minbase --include=rabbitmq-server trixie "$unfinished" "$mirror" \
        </dev/null >"$debian.out" 2>&1 ||
        { tail -n 20 "$debian.out" >&2; fail "RabbitMQ 4 cannot be installed: see $debian.out"; }
    rm -rf "$unfinished"/var/cache/apt/archives/*.deb
    touch "$unfinished/complete"
    mv --no-target-directory "$unfinished" "$debian" 2>/dev/null ||
        { remove_tree "$unfinished"; [[ -e $debian/complete ]]; }
}

# Runs a command in a mount namespace, if the kernel allows it, so that its mounts are gone even when it is killed.
own_mounts() {
    if unshare --mount true 2>/dev/null; then unshare --mount "$@"; else "$@"; fi
}

remove_tree() {
    local mount
    while read -r mount; do
        umount --lazy "$mount"
    done < <(cut -d ' ' -f 2 /proc/self/mounts | grep -F "$1/" | tac)
    rm -rf --one-file-system "$1"
}

# The node in its small Debian and the programs outside use the same path for this folder.
make_home() {
    if [[ -n $debian ]]; then
        mkdir -p "$debian$home" "$(dirname "$home")"
        [[ -L $home ]] || ln -s "$debian$home" "$home"
    fi
    mkdir -p "$home/log"
    echo "$port" >"$home/port"
}

start_package() {
    make_home
    echo package >"$home/mode"
    if ! alive && ! ports_free "$port"; then
        fail "another program listens on 127.0.0.1:$port: end it, set MILLRACE_${setting}_PORT, or set MILLRACE_TEST_${setting}_URL"
    fi
    write_configuration
    running epmd || launch epmd epmd -address 127.0.0.1 -port $((port - 3))
    alive || launch node "$bin/rabbitmq-server"
}

start_container() {
    mkdir -p "$home"
    echo "$port" >"$home/port"
    echo docker >"$home/mode"
    docker start "$container" >/dev/null 2>&1 && return
    docker run --detach --name "$container" --hostname localhost --env RABBITMQ_SCHEDULER_BIND_TYPE=u \
        --publish "127.0.0.1:$port:5672" \
        --publish "127.0.0.1:$((port + 1)):15672" --publish "127.0.0.1:$((port + 20)):15692" \
        --publish "127.0.0.1:$((port - 120)):5552" "rabbitmq:${MILLRACE_RABBITMQ_GENERATION:-3}-management" >"$home/log"
    wait_until 90 answers
    docker exec "$container" rabbitmq-plugins enable --quiet rabbitmq_prometheus rabbitmq_stream
}

stop() {
    stop_node
    if in_docker; then
        docker rm --volumes "$container" >/dev/null 2>&1 || true
    elif running epmd; then
        kill "$(pid epmd)"
        wait_until 10 not_running epmd
    fi
}

# RabbitMQ checks the alarm every 2.5 s; `eval` waits until a check has used the new limit.
alarm() {
    case "$1" in
        on) ctl set_vm_memory_high_watermark 0 && wait_for_alarm true ;;
        off) ctl set_vm_memory_high_watermark absolute $memory_limit && wait_for_alarm false ;;
        *) fail "alarm on or alarm off?" ;;
    esac
}

wait_for_alarm() {
    ctl eval "Raised = fun () -> [] =/= [A || {{resource_limit, memory, _}, _} = A <- rabbit_alarm:get_alarms()] end,
        Wait = fun W(0) -> exit(timeout); W(N) -> Raised() =:= $1 orelse begin timer:sleep(50), W(N - 1) end end, Wait(400)." >/dev/null
}

status() {
    if alive; then
        echo "$name runs: $(url), management http://127.0.0.1:$((port + 1))/"
    else
        echo "$name does not run"
        exit 3
    fi
}

url() { echo "amqp://guest:guest@127.0.0.1:$port/"; }

secure_url() {
    in_docker || echo "amqps://guest:guest@127.0.0.1:$((port - 1))/?cafile=$home/tls/ca.pem"
}

ctl() {
    if in_docker; then
        docker exec "$container" rabbitmqctl --quiet "$@"
    else
        "${environment[@]}" "$bin/rabbitmqctl" --quiet "$@"
    fi
}

write_configuration() {
    certify
    echo '[rabbitmq_management,rabbitmq_prometheus,rabbitmq_stream].' >"$home/enabled_plugins"
    cat >"$home/rabbitmq.conf" <<-END
	listeners.tcp.1 = 127.0.0.1:$port
	listeners.ssl.1 = 127.0.0.1:$((port - 1))
	ssl_options.cacertfile = $home/tls/ca.pem
	ssl_options.certfile = $home/tls/cert.pem
	ssl_options.keyfile = $home/tls/key.pem
	management.tcp.ip = 127.0.0.1
	management.tcp.port = $((port + 1))
	prometheus.tcp.ip = 127.0.0.1
	prometheus.tcp.port = $((port + 20))
	stream.listeners.tcp.1 = 127.0.0.1:$((port - 120))
	vm_memory_high_watermark.absolute = $memory_limit
	disk_free_limit.absolute = 1GB
	END
    # The small Debian has no /proc, from which the node would read its memory usage.
    [[ -z $debian ]] || echo "vm_memory_calculation_strategy = allocated" >>"$home/rabbitmq.conf"
}

# A ready node answers the protocol header with a frame of type 1 (Connection.Start).
answers() { [[ $(reply "$port" 1 'AMQP\0\0\11\1') == 1 ]]; }

main "$@"
