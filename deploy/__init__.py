"""Settings, wiring, the command line, and the code that runs the parts of an installation."""
