"""Reports of a run at work: events, logs and metrics."""
