"""The operations behind the commands for operators: dead letters, queues, inspection, routing."""
