"""The RabbitMQ adapter: quorum queues for queues, streams for logs."""
