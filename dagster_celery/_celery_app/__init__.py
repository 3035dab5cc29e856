"""The part of Celery's app object that Dagster projects use, on a taskiq broker.

``app`` has the object itself by Celery's names; it has a part for its settings (``app_settings``,
``conf``), one for its tasks (``app_tasks``), and one that sends (``app_sending``). ``task`` and
``signature`` are what is defined on it; ``task_options`` and ``routing`` what a call of them may
ask for; ``sending`` makes the request of a call. ``request`` is what a running task reads about
itself, ``results`` what became of a task, ``control`` the workers. None of them imports ``app``:
what each uses of it is a protocol in its own module.
"""
