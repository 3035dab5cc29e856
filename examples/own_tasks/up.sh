#!/bin/sh
# Starts a worker, a scheduler and the web application, and ends them with this script.
set -eu
dagster-taskiq worker start -A bikes.tasks:broker --concurrency 2 &
worker=$!
dagster-taskiq scheduler start -A bikes.tasks:broker &
scheduler=$!
uvicorn bikes.web:app --port "$PORT" --log-level warning &
web=$!
trap : INT # Ctrl-C reaches all of them
trap 'kill $worker $scheduler $web' TERM
# The first wait ends at the signal, the second one when all of them have ended.
wait || true
wait || true
