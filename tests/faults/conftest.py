"""A root in which the real workflow runs, as for the tests of the workflow."""

from workflow.conftest import root  # noqa: F401
