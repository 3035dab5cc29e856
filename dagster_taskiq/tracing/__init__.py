"""Traces of OpenTelemetry, from the launch of a run to its steps.

Nothing of OpenTelemetry is imported unless it is in use in this process: something has configured a
provider of traces here. The rest of the package has to do with
:mod:`~dagster_taskiq.tracing.spans` only, and with none of OpenTelemetry's types.
"""
