"""A web application as a project has one, which sends tasks to workers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import taskiq_fastapi
from fastapi import FastAPI, Request
from taskiq import TaskiqDepends

from dagster_taskiq.app import broker
from dagster_taskiq.client import call


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    if not broker.is_worker_process:
        await broker.startup()
    yield
    if not broker.is_worker_process:
        await broker.shutdown()


app = FastAPI(lifespan=lifespan)
app.state.greeting = "hello"
taskiq_fastapi.init(broker, "compat_tests.web_app:app")


def greeting(request: Annotated[Request, TaskiqDepends()]) -> str:
    return str(request.app.state.greeting)


@broker.task
def add(a: int, b: int) -> int:
    return a + b


@broker.task
async def greet(name: str, word: Annotated[str, TaskiqDepends(greeting)]) -> str:
    return f"{word} {name}"


@app.get("/add")
async def add_later(a: int, b: int) -> int:
    sent = await add.kiq(a, b)
    result = await sent.wait_result(check_interval=0.02, timeout=60)
    return result.raise_for_error().return_value


@app.get("/add-in-a-thread")
def add_in_a_thread(a: int, b: int) -> int:
    return call(add, a, b)


@app.get("/greet")
async def greet_later(name: str) -> str:
    sent = await greet.kiq(name)
    result = await sent.wait_result(check_interval=0.02, timeout=60)
    return result.raise_for_error().return_value
