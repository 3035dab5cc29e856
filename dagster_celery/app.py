"""The app for ``dagster-celery worker start -A dagster_celery.app``."""

from dagster_celery._door import door
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task, create_task

app = make_app()

execute_plan = create_task(app)

execute_job = create_execute_job_task(app)

resume_job = create_resume_job_task(app)

__all__ = ["app", "execute_job", "execute_plan", "resume_job"]

door(__name__)
