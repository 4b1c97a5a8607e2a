"""Where tasks run: in this process, in forked workers, or on an engine of a cluster."""
