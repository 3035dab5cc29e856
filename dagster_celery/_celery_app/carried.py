"""What a message carries beyond the arguments of its task, in one label.

taskiq's labels are texts and numbers. This one is JSON with the options of :data:`CARRIED` that the
call has, by Celery's names.
"""

import json
from collections.abc import Mapping
from typing import Any

from dagster_celery._celery_app.values import from_result, to_result

#: The label.
CARRIED_LABEL = "dagster_celery"

#: What is carried.
#:
#: ``retries``: how often the task was executed before. ``link``, ``link_error``: the signatures to
#: be sent when it has succeeded or failed. ``chain``: those that follow, the next one last.
#: ``chord``: the chord whose header it is in. ``group_id``, ``group_index``, ``root_id``,
#: ``parent_id``: where it belongs. ``headers``: the sender's own. ``ignore_result``: whether the
#: sender wants no value. ``eta``, ``expires``: as texts, for ``self.request``.
CARRIED = (
    "retries",
    "link",
    "link_error",
    "chain",
    "chord",
    "group_id",
    "group_index",
    "root_id",
    "parent_id",
    "headers",
    "ignore_result",
    "eta",
    "expires",
)


def label_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the label for a call with these options, by its name; nothing if there is no need."""
    found = {name: options[name] for name in CARRIED if options.get(name) not in (None, [], {}, ())}
    if not found.get("retries"):
        found.pop("retries", None)
    for name in ("link", "link_error"):
        if name in found and isinstance(found[name], Mapping):
            found[name] = [found[name]]
    return {CARRIED_LABEL: json.dumps(to_result(found))} if found else {}


def carried_by(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the labels of a message carry; empty if it was not sent by an app."""
    text = labels.get(CARRIED_LABEL)
    if not text:
        return {}
    found = from_result(json.loads(text))
    return found if isinstance(found, dict) else {}
