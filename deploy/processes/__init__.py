"""The environment of every process: its command line, shell, native threads and standard streams."""
