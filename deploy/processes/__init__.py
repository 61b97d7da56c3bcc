"""What every process of Millrace runs in: its command line, shell, native threads, streams."""
