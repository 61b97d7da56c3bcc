#!/usr/bin/env bash
# One node of RabbitMQ 4, with the same commands as rabbitmq.sh, which documents them.
MILLRACE_RABBITMQ_GENERATION=4 exec "$(dirname "$0")/rabbitmq.sh" "$@"
