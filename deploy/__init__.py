"""Settings, wiring, the command line and everything that runs the parts."""
