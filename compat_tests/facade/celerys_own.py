"""What a project has that makes its app by Celery itself."""

from celery import Celery

app = Celery("dagster")
