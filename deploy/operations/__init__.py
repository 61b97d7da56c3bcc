"""What the commands for operators do: dead letters, queues, inspection, routing commands."""
