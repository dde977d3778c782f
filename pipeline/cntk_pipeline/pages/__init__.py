"""Pages for a browser: a report of a run, and a comparison of several."""
