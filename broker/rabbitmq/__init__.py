"""RabbitMQ behind the port: quorum queues for queues, streams for logs."""
