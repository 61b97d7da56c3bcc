"""The port on Apache Kafka, by aiokafka."""
