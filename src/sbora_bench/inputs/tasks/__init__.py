"""The scored tasks: lm-eval YAML templates, how they are filled from the catalog, and how answers are extracted."""
