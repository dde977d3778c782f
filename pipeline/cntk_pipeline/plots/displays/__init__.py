"""One file a figure, named like its key: its numbers, its drawing, its tables."""
