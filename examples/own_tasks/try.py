"""Asks the web application, as a browser would, to have stations counted."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

URL = f"http://127.0.0.1:{os.environ['PORT']}"


def ask(method: str, path: str) -> Any:
    """Return what the application answers; it may not have started yet."""
    for _ in range(240):
        try:
            request = urllib.request.Request(URL + path, method=method)
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.25)
    raise SystemExit(f"{URL} does not answer. Run `make up` beside this.")


for station in sys.argv[1:]:
    sent = ask("POST", f"/counts/{station}")
    print(f"{station}: task {sent['task']}")
    ended = ask("GET", f"/tasks/{sent['task']}?wait=60")
    print(f"{station}: {ended}")
print(f"bikes: {ask('GET', '/bikes')}")
