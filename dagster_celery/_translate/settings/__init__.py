"""Celery's settings, as settings of the engine, options of a worker and settings of the app object.

``rows`` is the table. Its rows are made by ``kinds``; rows of settings that depend on others, or
become several things, call a function of ``translations``. ``names`` has the older names of
settings. ``translate`` looks up in the table; ``draft`` is a translation on the way, and
``server_urls`` puts the URLs of broker and backend together, of which several settings have a part.
"""
