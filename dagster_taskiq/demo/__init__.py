"""The example project of ``dagster-taskiq demo``, and what its event log must show afterwards."""
