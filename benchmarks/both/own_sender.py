"""Sends a user's own tasks: ``python own_sender.py MODULE``; orders come in as lines of JSON."""

import importlib
import json
import sys
import time

module = importlib.import_module(sys.argv[1])
for line in sys.stdin:
    clock, cpu = time.perf_counter(), time.process_time()
    for name, count, *args in json.loads(line):
        module.send(name, count, *args)
    done = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
    print(json.dumps(done), flush=True)
