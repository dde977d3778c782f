"""A workflow from its file to its report."""
