"""``--allow``: what a message may have a worker load, and what it may not, by hostile messages.

Whether code was loaded is told by the code itself, which leaves a file when it is imported.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.code_pointer import (
    CodePointer,
    CustomPointer,
    FileCodePointer,
    ModuleCodePointer,
    PackageCodePointer,
)
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.origin import JobPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import pack_value
from dagster._serdes.config_class import ConfigurableClassData

from compat_tests.checkout import ROOT
from compat_tests.conftest import make_settings
from compat_tests.executor import jobs
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.security import own_jobs
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq import app
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ConfigError, NotAllowedError
from dagster_taskiq.execution.allowed_code import (
    ALLOW_ENV,
    AllowedCode,
    allowed_entries,
    set_policy,
)
from dagster_taskiq.execution.code_loading import check_allowed
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB
from dagster_taskiq.wire.task_request import TaskRequest
from dagster_taskiq.worker.service import WorkerService

OWN = "compat_tests.security.own_jobs"
HOSTILE = "compat_tests.security.hostile"


# -- the rules ---------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory of code: ``shop.py``, a package ``depot``, and beside it one of somebody else."""
    project = tmp_path / "project"
    for name in ("project/depot", "elsewhere/depot", "elsewhere/json"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    (project / "shop.py").touch()
    (tmp_path / "elsewhere" / "shop.py").touch()
    (project / "way_out.py").symlink_to(tmp_path / "elsewhere" / "shop.py")
    return project


def origin_of(pointer: CodePointer, job: str = "allowed") -> JobPythonOrigin:
    return ReconstructableJob(ReconstructableRepository(pointer), job).get_python_origin()


def is_allowed(entries: list[str], pointer: CodePointer, *include: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dagster_taskiq.execution.allowed_code._policy", None)
        set_policy(AllowedCode.of(entries, ["included"]))
        try:
            check_allowed(origin_of(pointer), include)
        except NotAllowedError:
            return False
        return True


def test_a_module_is_allowed_by_its_name_with_what_is_below_it() -> None:
    for kind in (ModuleCodePointer, PackageCodePointer):
        assert is_allowed(["shop"], kind("shop", "defs", None))
        assert is_allowed(["depot", "shop"], kind("shop.defs.daily", "defs", str(Path.cwd())))
        assert not is_allowed(["shop"], kind("shopping", "defs", None))
        assert not is_allowed(["shop.defs"], kind("shop", "defs", None))
        assert not is_allowed(["shop"], kind("os", "abort", None))


def test_a_module_of_that_name_from_somewhere_else_is_not(project: Path) -> None:
    elsewhere = str(project.parent / "elsewhere")
    for name in ("shop", "depot"):
        assert not is_allowed([name], ModuleCodePointer(name, "defs", elsewhere))
        assert not is_allowed([str(project)], ModuleCodePointer(name, "defs", elsewhere))
        assert is_allowed([name, elsewhere], ModuleCodePointer(name, "defs", elsewhere))


def test_a_module_is_allowed_by_the_place_it_is_found_in(project: Path) -> None:
    place = [str(project)]
    for name in ("shop", "depot", "depot.defs"):
        assert is_allowed(place, ModuleCodePointer(name, "defs", str(project)))
    assert is_allowed(place, ModuleCodePointer("shop", "defs", f"{project}/../project"))
    # They are imported already, from where they were found before.
    for name in ("os", "json", "sys"):
        for directory in (project, project.parent / "elsewhere"):
            assert not is_allowed(
                [*place, str(project.parent)], ModuleCodePointer(name, "dumps", str(directory))
            )
    assert not is_allowed(place, ModuleCodePointer("wave", "open", str(project)))


def test_a_file_is_allowed_by_its_own_name_or_by_its_directory(project: Path) -> None:
    file = str(project / "shop.py")
    for entry in (file, str(project), f"{project}/depot/../"):
        assert is_allowed([entry], FileCodePointer(file, "defs", None))
        assert is_allowed([entry], FileCodePointer(file, "defs", str(project)))
        assert is_allowed([entry], FileCodePointer(file, "defs", str(Path.cwd())))
        assert not is_allowed([entry], FileCodePointer(f"{file}c", "defs", None)) or entry != file
    assert not is_allowed([f"{project}/depot"], FileCodePointer(file, "defs", None))
    assert not is_allowed(["shop"], FileCodePointer(file, "defs", None))
    assert not is_allowed([f"{project}2"], FileCodePointer(f"{project}21.py", "defs", None))


def test_a_file_may_not_import_from_somewhere_else(project: Path) -> None:
    file = str(project / "shop.py")
    elsewhere = str(project.parent / "elsewhere")
    assert not is_allowed([file], FileCodePointer(file, "defs", elsewhere))
    assert not is_allowed([str(project)], FileCodePointer(file, "defs", elsewhere))


def test_no_way_leads_out_of_a_directory(project: Path) -> None:
    for way in (project / "way_out.py", project / ".." / "elsewhere" / "shop.py"):
        assert not is_allowed([str(project)], FileCodePointer(str(way), "defs", None))


def test_what_a_function_makes_is_not_allowed() -> None:
    pointer = CustomPointer(ModuleCodePointer("shop", "build"), ["anything"], [])
    assert not is_allowed(["shop"], pointer)


def test_a_module_to_include_is_allowed_as_a_code_location_is_or_by_include() -> None:
    pointer = ModuleCodePointer("shop", "defs", None)
    assert is_allowed(["shop"], pointer, "shop.more", "included")
    assert not is_allowed(["shop"], pointer, "shop.more", "other")
    assert not is_allowed(["shop"], pointer, "included.more")
    assert not is_allowed(["shop"], ModuleCodePointer("included", "defs", None))


def test_a_refusal_names_what_was_refused_and_the_option() -> None:
    allowed = AllowedCode.of(["shop", "/srv/project"])
    with pytest.raises(NotAllowedError) as caught:
        allowed.check_module("os", "")
    assert str(caught.value) == (
        "The worker may not load the module os. Its operator has allowed: shop, /srv/project "
        "(--allow, or DAGSTER_TASKIQ_ALLOW). If that is meant, start it with --allow os too."
    )


def test_the_option_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv(ALLOW_ENV, raising=False)
    assert allowed_entries(()) == ()
    monkeypatch.setenv(ALLOW_ENV, "shop, ./jobs.py")
    assert allowed_entries(()) == ("shop", str(Path.cwd().resolve() / "jobs.py"))
    assert allowed_entries(("depot,a.b", "c")) == ("depot", "a.b", "c")


def test_a_worker_that_taskiq_starts_is_bounded_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(ALLOW_ENV, "shop")
    broker = app.make(Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}"))
    assert broker.make_service is not None
    service = broker.make_service()
    assert isinstance(service, WorkerService)
    assert service.options.pool.allow == ("shop",)


@pytest.mark.parametrize(
    ("entry", "words"),
    [("", "names nothing"), (" , ", "names nothing"), ("a-b", "'a-b' is none"), ("a:b", "'a:b'")],
)
def test_what_names_nothing_is_refused_and_does_not_mean_everything(
    entry: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv(ALLOW_ENV, raising=False)
    with pytest.raises(ConfigError, match=words):
        allowed_entries((entry,))
    monkeypatch.setenv(ALLOW_ENV, entry)
    with pytest.raises(ConfigError, match=words):
        allowed_entries(())


def test_without_an_instance_of_its_own_a_bounded_worker_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"\$DAGSTER_HOME, which is not set"):
        allowed_entries(("shop",))


# -- real workers ------------------------------------------------------------------------------


@dataclass
class Bounded:
    """A worker that may load ``OWN`` alone, and the instance of its ``$DAGSTER_HOME``."""

    house: House
    home: Path
    worker: WorkerProcess

    @property
    def has_loaded_hostile_code(self) -> bool:
        # Written here and not imported: whoever imports it has loaded it.
        return (self.home / "hostile-code-was-loaded").exists()

    def create_whole(
        self,
        scratch: Scratch,
        pointer: CodePointer | None = None,
        status: DagsterRunStatus = DagsterRunStatus.NOT_STARTED,
    ) -> Outcome:
        """Make a run that is executed as a whole, with its code on record at ``pointer``."""
        run = self.house.instance.create_run_for_job(
            own_jobs.allowed_as_a_whole,
            status=status,
            tags={SCRATCH_TAG: str(scratch.directory)},
            job_code_origin=origin_of(pointer or WHOLE_POINTER, "allowed_as_a_whole"),
        )
        return Outcome(self.house.instance, run.run_id, scratch)

    def send(self, name: str, kwargs: dict[str, Any], run_id: str) -> Task:
        """Send a task as the engine would, and wait until it has ended."""
        task_id = f"{run_id}:{name}"
        queue = "dagster" if name == EXECUTE_PLAN else run_queue("dagster")
        client = client_for(self.house.settings)
        client.submit(TaskRequest(id=task_id, name=name, kwargs=kwargs, queue=queue, run_id=run_id))

        def ended() -> Task | None:
            task = client.tasks([task_id])[task_id]
            return task if task.state.is_final else None

        task: Task = eventually(ended, "the task ends")
        return task

    def send_step(
        self, outcome: Outcome, pointer: CodePointer | None = None, **changes: Any
    ) -> Task:
        """Send a step of a run; its code is where ``pointer`` says, by default where it is."""
        origin = origin_of(pointer) if pointer else outcome.run.job_code_origin
        executed = ReconstructableJob(
            ReconstructableRepository(changes.pop("executed", None) or pointer or OWN_POINTER),
            "allowed",
        )
        args = ExecuteStepArgs(
            **{
                "job_origin": origin,
                "run_id": outcome.run_id,
                "step_keys_to_execute": ["note"],
                "instance_ref": self.house.instance.get_ref(),
                **changes,
            }
        )
        kwargs = {
            "execute_step_args_packed": pack_value(args),
            "executable_dict": dict(executed.to_dict()),
        }
        return self.send(EXECUTE_PLAN, kwargs, outcome.run_id)

    def send_run(
        self, outcome: Outcome, pointer: CodePointer, *include: str, resume: bool = False
    ) -> Task:
        """Send a whole run, as the launcher would."""
        kind, name = (ResumeRunArgs, RESUME_JOB) if resume else (ExecuteRunArgs, EXECUTE_JOB)
        ref = self.house.instance.get_ref()
        origin = origin_of(pointer, "allowed_as_a_whole")
        args = kind(origin, outcome.run_id, ref, set_exit_code_on_failure=True)
        kwargs = {
            f"{name}_args_packed": pack_value(args),
            "include": list(include),
        }
        return self.send(name, kwargs, outcome.run_id)


OWN_POINTER = ModuleCodePointer(OWN, "allowed", str(ROOT))
WHOLE_POINTER = ModuleCodePointer(OWN, "allowed_as_a_whole", str(ROOT))
HOSTILE_POINTER = ModuleCodePointer(HOSTILE, "definitions", str(ROOT))


@pytest.fixture(scope="module")
def bounded(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Bounded]:
    directory = tmp_path_factory.mktemp("bounded")
    settings = make_settings("embedded", directory, request)
    with make_instance(directory) as instance, pytest.MonkeyPatch.context() as patch:
        home = directory / "dagster-home"
        patch.setenv("DAGSTER_HOME", str(home))
        patch.delenv(ALLOW_ENV, raising=False)
        with running_worker(settings, directory, "-c", "1", "--allow", OWN) as worker:
            yield Bounded(House(settings, instance), home, worker)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    directory = tmp_path / "notes"
    directory.mkdir()
    return Scratch(directory)


def test_what_is_allowed_runs_as_it_always_does(bounded: Bounded, scratch: Scratch) -> None:
    outcome = bounded.house.run(own_jobs.allowed, scratch)
    assert outcome.status is DagsterRunStatus.SUCCESS
    whole = bounded.create_whole(scratch)
    assert bounded.send_run(whole, WHOLE_POINTER).state is TaskState.SUCCESS
    assert whole.status is DagsterRunStatus.SUCCESS
    assert scratch.count("ran") == 2


def test_a_job_that_is_not_allowed_fails_its_step_with_a_sentence_that_says_so(
    bounded: Bounded, scratch: Scratch
) -> None:
    outcome = bounded.house.run(jobs.values, scratch, raise_on_error=False)
    assert outcome.failed == {"two"}
    assert outcome.of(DagsterEventType.STEP_START) == []
    text = outcome.failure("two")
    assert f"may not load the module {jobs.__name__}. Its operator has allowed: {OWN}" in text
    assert "Traceback" not in text


#: Where hostile code is, by what a message may call it; ``DIRECTORY`` holds another copy.
POINTERS: dict[str, Callable[[str], CodePointer]] = {
    "module": lambda _: HOSTILE_POINTER,
    "package": lambda _: PackageCodePointer(HOSTILE, "definitions", str(ROOT)),
    "file": lambda here: FileCodePointer(f"{here}/evil.py", "definitions", here),
    "module elsewhere": lambda here: ModuleCodePointer("evil", "definitions", here),
    "allowed module in another directory": lambda here: ModuleCodePointer(OWN, "allowed", here),
    "function": lambda here: CustomPointer(
        ModuleCodePointer("os", "system"), [f"{sys.executable} {here}/evil.py"], []
    ),
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A directory with hostile code, also under the names of what is allowed."""
    directory = tmp_path / "elsewhere"
    package = directory / "compat_tests" / "security"
    package.mkdir(parents=True)
    text = (ROOT / "compat_tests" / "security" / "hostile.py").read_text()
    for path in (directory / "evil.py", package / "own_jobs.py", directory / "dagster_home.py"):
        path.write_text(text)
    return str(directory)


@pytest.mark.parametrize("kind", POINTERS)
def test_a_message_has_no_other_code_loaded_for_a_step(
    bounded: Bounded, scratch: Scratch, elsewhere: str, kind: str
) -> None:
    pointer = POINTERS[kind](elsewhere)
    for changes in ({"pointer": pointer}, {"executed": pointer}):
        outcome = bounded.house.create(own_jobs.allowed, scratch)
        task = bounded.send_step(outcome, **changes)
        assert task.state is TaskState.FAILURE
        assert "The worker may not load" in task.error
        assert "--allow" in task.error
    assert not bounded.has_loaded_hostile_code
    assert scratch.count("ran") == 0


@pytest.mark.parametrize("resume", [False, True], ids=["execute", "resume"])
@pytest.mark.parametrize("kind", POINTERS)
def test_a_message_has_no_other_code_loaded_for_a_run(
    bounded: Bounded, scratch: Scratch, elsewhere: str, kind: str, resume: bool
) -> None:
    status = DagsterRunStatus.STARTING if resume else DagsterRunStatus.NOT_STARTED
    outcome = bounded.create_whole(scratch, status=status)
    task = bounded.send_run(outcome, POINTERS[kind](elsewhere), resume=resume)
    assert task.state is TaskState.FAILURE
    assert outcome.status is DagsterRunStatus.FAILURE
    assert "cannot execute the run: The worker may not load" in outcome.run_failure()
    assert not bounded.has_loaded_hostile_code
    assert scratch.count("ran") == 0


def test_a_message_has_no_other_module_included(bounded: Bounded, scratch: Scratch) -> None:
    outcome = bounded.create_whole(scratch)
    task = bounded.send_run(outcome, WHOLE_POINTER, OWN, HOSTILE)
    assert f"may not load the module {HOSTILE}" in task.error
    assert outcome.status is DagsterRunStatus.FAILURE
    assert not bounded.has_loaded_hostile_code


def test_a_run_with_other_code_on_record_is_not_loaded_if_a_message_hides_it(
    bounded: Bounded, scratch: Scratch
) -> None:
    outcome = bounded.create_whole(scratch, HOSTILE_POINTER)
    task = bounded.send_run(outcome, WHOLE_POINTER)
    assert f"may not load the module {HOSTILE}" in task.error
    assert not bounded.has_loaded_hostile_code


def test_a_message_names_no_other_instance(bounded: Bounded, scratch: Scratch) -> None:
    outcome = bounded.house.create(own_jobs.allowed, scratch)
    ref = bounded.house.instance.get_ref()
    hostile = ref._replace(storage_data=ConfigurableClassData(HOSTILE, "Storage", "{}"))
    task = bounded.send_step(outcome, instance_ref=hostile)
    assert task.state is TaskState.SUCCESS, task
    assert scratch.count("ran") == 1
    assert not bounded.has_loaded_hostile_code


def test_a_run_of_another_instance_is_not_found(
    bounded: Bounded, scratch: Scratch, tmp_path: Path
) -> None:
    with make_instance(tmp_path) as other:
        outcome = House(bounded.house.settings, other).create(own_jobs.allowed, scratch)
        task = bounded.send_step(outcome, instance_ref=other.get_ref())
    assert task.state is TaskState.FAILURE
    assert "with --allow, that of its own $DAGSTER_HOME" in task.error
    assert scratch.count("ran") == 0


def test_by_the_environment_the_older_command_is_bounded_as_well(
    dagster_home: Path,
    instance: DagsterInstance,
    scratch: Scratch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "celery.yaml"
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    config.write_text(f"execution: {{config: {{broker: '{url}'}}}}")
    monkeypatch.setenv(ALLOW_ENV, OWN)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "dagster_celery", "worker", "start", "-A"]
    command += ["dagster_celery.app", "-y", str(config), "-n", "old", "--", "-c", "1"]
    house = House(Settings(broker=url), instance)
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        bounded = Bounded(house, dagster_home, None)  # type: ignore[arg-type]
        good = house.create(own_jobs.allowed, scratch)
        assert bounded.send_step(good).state is TaskState.SUCCESS
        bad = house.create(own_jobs.allowed, scratch)
        task = bounded.send_step(bad, HOSTILE_POINTER)
        assert f"may not load the module {HOSTILE}" in task.error
        ref = instance.get_ref()
        hostile = ref._replace(storage_data=ConfigurableClassData(HOSTILE, "Storage", "{}"))
        again = house.create(own_jobs.allowed, scratch)
        assert bounded.send_step(again, instance_ref=hostile).state is TaskState.SUCCESS
        assert not bounded.has_loaded_hostile_code
        assert scratch.count("ran") == 2
    finally:
        process.terminate()
        process.wait(30)
