"""A package, so that its conftest is not the same module to Python as those of the other tests."""
