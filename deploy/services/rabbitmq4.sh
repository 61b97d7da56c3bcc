#!/usr/bin/env bash
# One RabbitMQ node of the fourth generation: rabbitmq4.sh takes what rabbitmq.sh takes, and that file says the rest.
MILLRACE_RABBITMQ_GENERATION=4 exec "$(dirname "$0")/rabbitmq.sh" "$@"
