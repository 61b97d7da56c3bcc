#!/usr/bin/env bash
# The servers that tests and benchmarks use.
#
#   services.sh start   have each one running and write its address to .services.env; running ones are used as they are
#   services.sh stop    end what `start` started, and nothing else
#
# MILLRACE_TEST_RABBITMQ_URL in the environment names a server of yours: it is used, and nothing is started for it.
set -euo pipefail
cd "$(dirname "$0")/../.."

start() {
    local lines=()
    if [[ -n ${MILLRACE_TEST_RABBITMQ_URL:-} ]]; then
        lines+=("MILLRACE_TEST_RABBITMQ_URL=$MILLRACE_TEST_RABBITMQ_URL")
    else
        deploy/services/rabbitmq.sh start
        lines+=("MILLRACE_TEST_RABBITMQ_URL=$(deploy/services/rabbitmq.sh url)")
        # Only a node of ours may be killed by a test.
        lines+=("MILLRACE_TEST_RABBITMQ_CONTROL=deploy/services/rabbitmq.sh")
    fi
    printf '%s\n' "${lines[@]}" >.services.env
    deploy/services/apt.sh amqp-tools || echo "amqp-tools is missing and cannot be installed here: tests that need it are skipped"
    echo "services run; their addresses are in .services.env"
}

stop() {
    deploy/services/rabbitmq.sh stop
    rm -f .services.env
}

case "${1:-}" in
    start | stop) "$1" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
