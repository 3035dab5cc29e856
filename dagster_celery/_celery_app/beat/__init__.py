"""What celery beat does: the schedules of an app, which a scheduler of the engine sends."""
