#!/usr/bin/env bash
# The servers that tests and benchmarks use: RabbitMQ and Kafka.
#
#   services.sh start   have each one running and write its address to .services.env; running ones are used as they are
#   services.sh stop    end what `start` started, and nothing else
#
# MILLRACE_TEST_RABBITMQ_URL or MILLRACE_TEST_KAFKA_URL in the environment names a server of yours: it is used, and
# nothing is started for it; MILLRACE_TEST_KAFKAS_URL names yours over TLS.
set -euo pipefail
cd "$(dirname "$0")/../.."

servers=(rabbitmq kafka)
# A second address of a server: over TLS.
declare -A secure=([kafka]=MILLRACE_TEST_KAFKAS_URL)

start() {
    local server starting=()
    for server in "${servers[@]}"; do
        [[ -n $(lent "$server") ]] && continue
        "deploy/services/$server.sh" start &
        starting+=($!)
    done
    for server in "${starting[@]}"; do wait "$server"; done
    rm -f .services.env
    (umask 077 && for server in "${servers[@]}"; do addresses "$server"; done >.services.env)
    deploy/services/apt.sh amqp-tools || echo "amqp-tools is missing and cannot be installed here: tests that need it are skipped"
    echo "services run; their addresses are in .services.env"
}

addresses() {
    local name=MILLRACE_TEST_${1^^} url
    url=$(lent "$1")
    echo "${name}_URL=${url:-$("deploy/services/$1.sh" url)}"
    # Only a node of ours may be killed by a test.
    [[ -n $url ]] || echo "${name}_CONTROL=deploy/services/$1.sh"
    local over_tls=${secure[$1]:-}
    if [[ -n $over_tls && -n ${!over_tls:-} ]]; then
        echo "$over_tls=${!over_tls}"
    elif [[ -n $over_tls && -z $url ]]; then
        echo "$over_tls=$("deploy/services/$1.sh" secure-url)"
    fi
}

lent() {
    local name=MILLRACE_TEST_${1^^}_URL
    echo "${!name:-}"
}

stop() {
    for server in "${servers[@]}"; do "deploy/services/$server.sh" stop; done
    rm -f .services.env
}

case "${1:-}" in
    start | stop) "$1" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
