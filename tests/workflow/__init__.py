"""The real DAG on a tiny experiment."""
