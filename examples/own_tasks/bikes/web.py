"""The web application: it sends tasks, and shows how they end."""

from typing import Any

from fastapi import FastAPI, HTTPException

from bikes.broker import broker
from bikes.tasks import bikes_now, counting
from dagster_taskiq.client import SentTask

app = FastAPI(title="Bikes for hire")


@app.post("/counts/{station}", status_code=202)
async def count(station: str) -> dict[str, str]:
    """Have a station counted."""
    sent = await counting(station).kiq(station)
    return {"task": sent.task_id}


@app.get("/tasks/{task_id}")
def task(task_id: str, wait: float = 0.0) -> dict[str, Any]:
    """Show how a task has ended; wait for that for some seconds."""
    sent: SentTask[Any] = SentTask(task_id, broker)
    try:
        return {"state": "SUCCESS", "value": sent.result(timeout=wait)}
    except TimeoutError:
        raise HTTPException(404, "It has not ended, or there is no such task.") from None
    except Exception as error:
        return {"state": "FAILURE", "error": f"{type(error).__name__}: {error}"}


@app.delete("/tasks/{task_id}")
async def cancel(task_id: str) -> None:
    """Cancel a task, whether it waits or runs."""
    await broker.cancel([task_id], "It was cancelled in the web application.")


@app.get("/bikes")
async def bikes() -> dict[str, int]:
    """Show the last count of each station."""
    sent = await bikes_now.kiq()
    result = await sent.wait_result(timeout=30)
    return result.return_value
