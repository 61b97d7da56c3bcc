#!/usr/bin/env bash
# One Kafka node of this checkout, for tests, benchmarks and experiments: on 127.0.0.1 only, with its data in .services/kafka.
#
#   kafka.sh start       fetch Kafka if needed, start the node, and wait until it answers; no effect if it runs
#   kafka.sh stop        stop the node cleanly
#   kafka.sh kill        SIGKILL the node; `start` starts it again with its data
#   kafka.sh restart     stop the node cleanly and start it again
#   kafka.sh status      print whether the node runs; exit status 0 if it does, 3 if not
#   kafka.sh url         print its address
#   kafka.sh secure-url  print its address over TLS, with a user and a password (SCRAM-SHA-512)
#
# Ports: clients $MILLRACE_KAFKA_PORT (29092), controller +1, clients over TLS +2.
# Maven fetches the server (kafka.pom.xml) once into .cache/kafka; it needs Java 17 or newer. If these two are missing and
# cannot be installed, the same node runs in Docker, if there is one.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=$(cd "$here/../.." && pwd)/.services/kafka
cache=$(cd "$here/../.." && pwd)/.cache/kafka
port=${MILLRACE_KAFKA_PORT:-$(cat "$home/port" 2>/dev/null || echo 29092)}
container=millrace-kafka-$port
image=apache/kafka:4.3.1
largest_bytes=$((9 * 1024 * 1024)) # a body of 8 MiB with its headers
# shellcheck source=node.sh
. "$here/node.sh"

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
# The node inherits nothing but PATH from the caller's environment.
environment=(env -i HOME="$home" LC_ALL=C.UTF-8 PATH="$PATH")
jvm=(
    "$java" -Xms64m -Xmx384m
    -XX:+UseSerialGC -XX:TieredStopAtLevel=1 # a third less CPU for a node that only tests use
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$cache/lib/*"
)

main() {
    case "${1:-}" in
        start) start ;;
        stop) stop ;;
        kill) kill_node ;;
        restart) stop_node && start ;;
        status) status ;;
        url) echo "kafka://127.0.0.1:$port" ;;
        secure-url) echo "kafkas://app:$(cat "$home/password")@127.0.0.1:$((port + 2))?cafile=$home/tls/ca.pem" ;;
        *) usage ;;
    esac
}

start() {
    if alive && answers; then return; fi
    mkdir -p "$home/log"
    echo "$port" >"$home/port"
    if have_java && fetch; then
        start_process
    elif command -v docker >/dev/null; then
        start_container
    else
        fail "Java 17 or Maven is missing and cannot be installed: run this as root on Debian, start Docker, or set MILLRACE_TEST_KAFKA_URL"
    fi
    wait_until 90 ready_or_dead && answers ||
        fail "Kafka does not answer on port $port: see $home/log"
}

have_java() { java_is_new_enough || { "$here/apt.sh" default-jre-headless && java_is_new_enough; }; }

java_is_new_enough() {
    local version
    version=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    ((${version:-0} >= 17))
}

# The jars are complete if the pom that they were fetched for is next to them.
fetch() {
    cmp -s "$here/kafka.pom.xml" "$cache/kafka.pom.xml" && return
    command -v mvn >/dev/null || "$here/apt.sh" maven || return 1
    echo "fetching Kafka"
    rm -rf "$cache"
    mkdir -p "$cache"
    mvn --quiet --batch-mode --file "$here/kafka.pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$cache/lib" </dev/null >"$home/log/maven.out" 2>&1 ||
        fail "Maven cannot fetch Kafka: see $home/log/maven.out"
    cp "$here/kafka.pom.xml" "$cache/"
}

start_process() {
    echo process >"$home/mode"
    alive && return
    if ! ports_free "$port" $((port + 1)) $((port + 2)); then
        fail "another program listens on 127.0.0.1:$port or the two ports after it: end it, set MILLRACE_KAFKA_PORT, or set MILLRACE_TEST_KAFKA_URL"
    fi
    write_configuration 127.0.0.1
    [[ -e $home/data/meta.properties && -e $home/password ]] || format
    launch node "${jvm[@]}" kafka.Kafka "$home/server.properties"
}

format() {
    rm -rf "$home/data" # left by an interrupted format
    make_password
    # Its output has keys that are derived from the password.
    "${environment[@]}" "${jvm[@]}" kafka.tools.StorageTool format -t "$(new_id)" -c "$home/server.properties" \
        --add-scram "SCRAM-SHA-512=[name=app,password=$(cat "$home/password")]" >/dev/null 2>"$home/log/format.out" ||
        fail "Kafka cannot create its data folder: see $home/log/format.out"
}

make_password() {
    rm -f "$home/password"
    (umask 077 && head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$home/password")
}

# A UUID in Kafka's format, not one that begins with -, which would be parsed as an option.
new_id() {
    local id=-
    while [[ $id == -* ]]; do
        id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
    done
    echo "$id"
}

start_container() {
    echo docker >"$home/mode"
    docker start "$container" >/dev/null 2>&1 && return
    write_configuration 0.0.0.0
    rm -rf "$home/data"
    make_password
    docker run --detach --name "$container" --user "$(id -u):$(id -g)" --env LOG_DIR=/tmp \
        --publish "127.0.0.1:$port:$port" --publish "127.0.0.1:$((port + 2)):$((port + 2))" --volume "$home:$home" \
        --entrypoint /bin/bash "$image" -c "cd /opt/kafka/bin
            ./kafka-storage.sh format --ignore-formatted -t $(new_id) -c $home/server.properties \
                --add-scram 'SCRAM-SHA-512=[name=app,password=$(cat "$home/password")]' >/dev/null
            exec ./kafka-server-start.sh $home/server.properties" >"$home/log/docker.out"
}

stop() {
    stop_node
    if in_docker; then docker rm --volumes "$container" >/dev/null 2>&1 || true; fi
}

status() {
    if alive; then
        echo "kafka runs: $("$0" url)"
    else
        echo "kafka does not run"
        exit 3
    fi
}

write_configuration() {
    certify
    cat >"$home/server.properties" <<-END
	process.roles=broker,controller
	node.id=1
	controller.quorum.voters=1@127.0.0.1:$((port + 1))
	controller.listener.names=CONTROLLER
	listeners=PLAINTEXT://$1:$port,CONTROLLER://127.0.0.1:$((port + 1)),SECURE://$1:$((port + 2))
	advertised.listeners=PLAINTEXT://127.0.0.1:$port,SECURE://127.0.0.1:$((port + 2))
	listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
	inter.broker.listener.name=PLAINTEXT
	listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
	listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
	listener.name.secure.ssl.keystore.type=PEM
	listener.name.secure.ssl.keystore.location=$home/tls/server.pem
	log.dirs=$home/data
	auto.create.topics.enable=false
	message.max.bytes=$largest_bytes
	replica.fetch.max.bytes=$largest_bytes

	# With one node there is one replica.
	offsets.topic.num.partitions=1
	offsets.topic.replication.factor=1
	transaction.state.log.num.partitions=1
	transaction.state.log.replication.factor=1
	transaction.state.log.min.isr=1
	share.coordinator.state.topic.num.partitions=1
	share.coordinator.state.topic.replication.factor=1
	share.coordinator.state.topic.min.isr=1

	# Short times: tests wait for members to join and leave, and for a killed node to restart.
	group.initial.rebalance.delay.ms=0
	group.min.session.timeout.ms=2000
	broker.session.timeout.ms=2000
	broker.heartbeat.interval.ms=250
	log.cleaner.dedupe.buffer.size=2097152
	END
}

# Sends a Metadata request, version 1, without topics; bytes 9 to 12 of the response are the number of live nodes.
answers() {
    local nodes
    nodes=$(reply "$port" 12 '\0\0\0\16\0\3\0\1\0\0\0\1\377\377\0\0\0\0')
    ((${nodes:-0} > 0))
}

main "$@"
