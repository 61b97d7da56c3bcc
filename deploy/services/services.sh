#!/usr/bin/env bash
# The servers for tests and benchmarks: RabbitMQ, RabbitMQ 4 and Kafka.
#
#   services.sh start   start those that do not run, and write the addresses of all to .services.env
#   services.sh stop    stop the servers that `start` started
#
# MILLRACE_TEST_RABBITMQ_URL, MILLRACE_TEST_RABBITMQ4_URL or MILLRACE_TEST_KAFKA_URL in the environment names your own
# server, which is used instead. MILLRACE_TEST_AMQPS_URL and MILLRACE_TEST_KAFKAS_URL are the addresses of yours over TLS.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Runs a command for each server with three more arguments: the script's name, the server's part of the names of variables,
# and the variable with the address over TLS.
each() {
    "$@" rabbitmq RABBITMQ MILLRACE_TEST_AMQPS_URL
    "$@" rabbitmq4 RABBITMQ4 ""
    "$@" kafka KAFKA MILLRACE_TEST_KAFKAS_URL
}

start() {
    announce
    each launch
    wait_for_all
    rm -f .services.env
    (umask 077 && each addresses >.services.env)
    for tool in amqp-tools kcat; do
        deploy/services/apt.sh "$tool" || echo "$tool is missing and cannot be installed here: tests that need it are skipped"
    done
    echo "services run; their addresses are in .services.env"
}

announce() {
    echo "starting RabbitMQ, RabbitMQ 4 and Kafka for tests and benchmarks: on 127.0.0.1 only, with their data in .services"
    [[ -d .services ]] ||
        echo "the first start installs missing programs (Debian's packages as root, 350 MB in .cache): up to five minutes"
}

launch() {
    [[ -z $(own_url "$2") ]] || return 0
    "deploy/services/$1.sh" start &
    starting="${starting:-} $1:$!"
}

wait_for_all() {
    local server
    for server in ${starting:-}; do
        if wait "${server#*:}"; then
            :
        elif [[ $server == rabbitmq4:* && -z ${CI:-} ]]; then
            echo "RabbitMQ 4 does not run here: tests that need it are skipped"
        else
            exit 1
        fi
    done
}

addresses() {
    local url
    url=$(own_url "$2")
    if [[ -n $url ]]; then
        echo "MILLRACE_TEST_$2_URL=$url"
        [[ -z $3 || -z ${!3:-} ]] || echo "$3=${!3}"
    elif "deploy/services/$1.sh" status >/dev/null; then
        echo "MILLRACE_TEST_$2_URL=$("deploy/services/$1.sh" url)"
        # Tests may kill only a node that this script has started.
        echo "MILLRACE_TEST_$2_CONTROL=deploy/services/$1.sh"
        [[ -z $3 ]] || url=$("deploy/services/$1.sh" secure-url)
        [[ -z $url ]] || echo "$3=$url"
    fi
}

# The address of the user's own server, if it is set.
own_url() {
    local name=MILLRACE_TEST_$1_URL
    echo "${!name:-}"
}

stop() {
    each stop_one
    rm -f .services.env
}

stop_one() { "deploy/services/$1.sh" stop; }

case "${1:-}" in
    start | stop) "$1" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
