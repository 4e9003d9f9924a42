"""The harness: experiment files to fine-tuning runs, scores, tables and figures."""
