"""``dagster-celery``: the commands of dagster-celery, done by those of ``dagster-taskiq``."""

import fcntl
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagster_celery._door import door
from dagster_celery._translate.names import COMMANDS
from dagster_celery._translate.worker_options import expand_node_name, translate_arguments
from dagster_taskiq.deprecations import DagsterCeleryDeprecationWarning, warn_older
from dagster_taskiq.errors import ConfigError, DagsterTaskiqError
from dagster_taskiq.settings.env import read_home
from dagster_taskiq.worker.detach import start_detached
from dagster_taskiq.worker.fork_server import process

# Dagster takes seconds to import. What needs it imports it where it is needed, so that the server
# from which a worker's children are forked can do so meanwhile.
if TYPE_CHECKING:
    from dagster_celery._celery_app import CeleryApp
    from dagster_taskiq.transport.broker import QueueBroker

#: What celery's own ``status`` exits with when nobody answers (EX_UNAVAILABLE of sysexits.h).
NOBODY_THERE = 69
#: The most often that ``-q`` may be given, as with dagster-celery.
MAX_QUEUE_OPTIONS = 4

#: The file, beside the config that is written for a worker, which is locked while the worker lives.
_IN_USE = "in-use"
#: How the directory of such a config is named where there are others' files too.
_IN_TEMPORARY = "dagster_celery_config-"
#: For how long such a file may not be locked yet, in seconds.
_NEW_SECONDS = 60.0
#: The locks of this process.
_held: list[int] = []

#: How much a worker says where nothing else is asked for.
DEFAULT_LEVEL = "INFO"

NO_APP = "App must be specified. E.g. dagster_celery.app or dagster_celery_k8s.app"

#: What warnings about a command are said of; no file has such a name.
COMMAND_LINE = "<dagster-celery>"

#: Whatever stands behind ``--``, and what this command does not know itself.
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


class _Main(click.Group):
    """The group of commands; as a program it says errors in a sentence and exits with 2."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not sys.warnoptions:
            # Whoever types an older command, or has it in a script, is who has to know.
            warnings.simplefilter("default", DagsterCeleryDeprecationWarning)
        try:
            if sys.argv[1:3] == ["worker", "start"]:
                process.start()
            return self.main(*args, **kwargs)
        except DagsterTaskiqError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


def get_config_value_from_yaml(yaml_path: str | None) -> Mapping[str, Any]:
    """Return an executor's config as a file has it.

    Args:
        yaml_path: the file: ``execution: config:``, the older ``execution: celery:``, or the keys
            of the config bare; ``None`` for none.

    Raises:
        ConfigError: the file is not YAML, or no mapping.
    """
    if yaml_path is None:
        return {}
    import yaml  # noqa: PLC0415

    try:
        document = yaml.safe_load(Path(yaml_path).read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{yaml_path} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{yaml_path} must hold `execution: config:` with the executor's config.")
    if "execution" not in document:
        return _bare(document, yaml_path)
    execution = document["execution"] or {}
    config = execution.get("config") or execution.get("celery") or {}
    return dict(config)


def get_validated_config(config_yaml: str | None = None) -> Any:
    """Return an executor's config from a file, checked and completed by Dagster.

    Args:
        config_yaml: as for :func:`get_config_value_from_yaml`.

    Raises:
        ConfigError: as :func:`get_config_value_from_yaml`.
        DagsterInvalidConfigError: an unknown key, or a value of the wrong type.
    """
    from dagster._config import process_config  # noqa: PLC0415
    from dagster._core.errors import DagsterInvalidConfigError  # noqa: PLC0415

    from dagster_celery.executor import celery_executor  # noqa: PLC0415

    value = get_config_value_from_yaml(config_yaml)
    outcome = process_config(celery_executor.config_schema.config_type, dict(value))
    if not outcome.success:
        raise DagsterInvalidConfigError(
            f"Errors while loading Celery executor config at {config_yaml}.",
            outcome.errors,
            value,
        )
    return outcome.value


def get_app(config_yaml: str | None = None) -> "CeleryApp":
    """Return the app for the config in a file.

    Args:
        config_yaml: as for :func:`get_config_value_from_yaml`.

    Raises:
        ConfigError: a setting or URL that cannot be translated.
    """
    from dagster_celery.executor import CeleryExecutor  # noqa: PLC0415
    from dagster_celery.make_app import make_app  # noqa: PLC0415

    names = ("broker", "backend", "include", "config_source")
    config = get_validated_config(config_yaml)
    executor = CeleryExecutor.for_cli(**{name: config.get(name) for name in names})
    return make_app(executor.app_args())


def get_worker_name(name: str | None = None) -> str:
    """Return a worker's name with Celery's placeholder for the host; a new one for ``None``."""
    return f"{name or f'dagster-{str(uuid.uuid4())[-6:]}'}@%h"


def get_config_dir(config_yaml: str | None = None) -> str:
    """Write the module ``dagster_celery_config`` for a worker, which its owner alone can read.

    Args:
        config_yaml: as for :func:`get_config_value_from_yaml`.

    Returns:
        The directory to import it from, new: under ``$DAGSTER_HOME``, or, where that is not set or
        takes no files, in the system's temporary directory.

    Raises:
        as :func:`get_validated_config`; and ConfigError where no file can be written, or
        ``$DAGSTER_HOME`` is no directory.
    """
    config = get_validated_config(config_yaml)
    values = {
        "broker_url": config.get("broker"),
        "result_backend": config.get("backend"),
        "include": config.get("include"),
    }
    given = {name: value for name, value in values.items() if value}
    given.update(config.get("config_source") or {})
    text = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    home = read_home()
    with suppress(OSError):  # read-only, full, or somebody else's
        if home is not None:
            parent = home / "dagster_celery" / "config"
            parent.mkdir(parents=True, exist_ok=True)
            return _write_config(text, parent)
    with suppress(OSError):
        return _write_config(text, Path(tempfile.gettempdir()), _IN_TEMPORARY)
    raise ConfigError(
        "The config of -y cannot be handed to the worker's processes: neither $DAGSTER_HOME "
        f"({home or 'not set'}) nor a temporary directory ($TMPDIR, /tmp) takes files. Make one of "
        "them writable, or leave -y out and name the broker in CELERY_BROKER_URL."
    )


def _write_config(text: str, parent: Path, prefix: str = "") -> str:
    """Write the module into a new directory, whose name is returned; its owner alone can read it.

    Raises:
        OSError: it cannot be written there.
    """
    from dagster_celery.make_app import CONFIG_MODULE  # noqa: PLC0415

    _remove_left_by_dead(parent, prefix)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    _hold(directory)
    file = os.open(directory / f"{CONFIG_MODULE}.py", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(file, "w", encoding="utf8") as output:
        output.write(text)
    return str(directory)


def _hold(directory: Path) -> None:
    """Let others see, for as long as this process lives, that its directory is in use."""
    handle = os.open(directory / _IN_USE, os.O_CREAT | os.O_RDWR, 0o600)
    # Where the file system has no locks, the directory stays if this process is killed.
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.append(handle)


def _remove_left_by_dead(directory: Path, prefix: str = "") -> None:
    """Remove what workers have left that were killed: there may be a password in it.

    Args:
        directory: where it is.
        prefix: how the names of their directories begin.
    """
    for lock in directory.glob(f"{prefix}*/{_IN_USE}"):
        # One that is in use is locked, one that is new will be in a moment, one that has gone has
        # been removed by somebody else.
        with suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - lock.stat().st_mtime > _NEW_SECONDS:
                shutil.rmtree(lock.parent)


def launch_background_worker(subprocess_args: Sequence[str], env: Mapping[str, str]) -> None:
    """Start a worker that outlives this process, wait until it is there, and say where its log is.

    Args:
        subprocess_args: the command.
        env: its environment.

    Raises:
        ConfigError: ``$DAGSTER_HOME``, where its log goes, is not set; or the worker has ended as
            it started.
    """
    arguments = list(subprocess_args)
    named = arguments.index("--name") + 1 if "--name" in arguments else 0
    label = arguments[named] if named else "dagster-celery"
    click.echo(start_detached(arguments, env, label))


_app_option = click.option(
    "--app", "-A", type=click.STRING, help="The module with the app, such as dagster_celery.app."
)
_config_of_workers = partial(
    click.option,
    "--config-yaml",
    "-y",
    type=click.Path(exists=True),
    help="The config YAML file that the workers were started with.",
)


@click.command(
    name="start", help="Start a dagster celery worker.", context_settings=dict(PASSED_ON)
)
@click.option(
    "--name",
    "-n",
    type=click.STRING,
    default=None,
    help="The worker's name, to which @HOST is added. Default: dagster- and six characters.",
)
@click.option(
    "--config-yaml",
    "-y",
    type=click.Path(exists=True),
    default=None,
    help="A YAML file with the config of celery_executor under `execution: config:`.",
)
@click.option(
    "--queue",
    "-q",
    type=click.STRING,
    multiple=True,
    help="A queue to serve; repeatable, up to four times, comma lists too.",
)
@click.option("--background", "-d", is_flag=True, help="Start it in the background and return.")
@click.option(
    "--includes",
    "-i",
    type=click.STRING,
    multiple=True,
    help="A module that the worker imports; repeatable.",
)
@click.option(
    "--loglevel", "-l", type=click.STRING, default=DEFAULT_LEVEL, help="How much the worker says."
)
@_app_option
@click.argument("additional_args", nargs=-1, type=click.UNPROCESSED)
def worker_start_command(
    name: str | None,
    config_yaml: str | None,
    background: bool,
    queue: tuple[str, ...],
    includes: tuple[str, ...],
    loglevel: str,
    app: str | None,
    additional_args: tuple[str, ...],
) -> None:
    """Start a worker. What stands behind ``--`` are options of ``celery worker``."""
    if not app:
        raise ConfigError(NO_APP)
    if len(queue) > MAX_QUEUE_OPTIONS:
        raise ConfigError(
            "Can't start a dagster_celery worker that listens on more than four queues, due to a "
            "bug in Celery 4. `dagster-taskiq worker start` serves any number, and so does one -q "
            "with commas: -q a,b,c,d,e."
        )
    own = ["-l", loglevel] if loglevel.upper() != DEFAULT_LEVEL else []
    own += ["-Q", ",".join(queue)] if queue else []
    own += ["-I", ",".join(includes)] if includes else []
    translated, _ = translate_arguments(own)
    further, remarks = translate_arguments(additional_args)
    _say_newer("worker start", [*(["--name", name] if name else []), *translated, *further])
    for remark in remarks:
        warn_older(remark.text, COMMAND_LINE)
    if background:
        get_validated_config(config_yaml)
        again = ["worker", "start", "--app", app, "--loglevel", loglevel]
        again += ["--name", name] if name else []
        again += ["--config-yaml", config_yaml] if config_yaml else []
        again += [text for each in queue for text in ("--queue", each)]
        again += [text for each in includes for text in ("--includes", each)]
        command = [sys.executable, "-m", "dagster_celery", *again, "--", *additional_args]
        launch_background_worker(command, os.environ)
        return
    with _importable(config_yaml):
        where, found = _find_app(app)
        called = ["--name", expand_node_name(get_worker_name(name))]
        arguments = [*_configured(found, bool(queue)), *called, *translated, *further]
        from dagster_taskiq.cli.worker import start  # noqa: PLC0415

        start.main(["-A", where, *arguments], standalone_mode=False)


@click.command(name="list", help="List running dagster-celery workers, and what each of them runs.")
@_config_of_workers(default=None)
def worker_list_command(config_yaml: str | None = None) -> None:
    """Print what each worker runs, by the worker's name; ``None`` when there is no worker."""
    _say_newer("worker list")
    click.echo(get_app(config_yaml).control.inspect(timeout=1).active())


@click.command(
    name="terminate",
    help="Let a worker finish what it runs, and end; NAME is the one it was started with.",
)
@click.argument("name", default="dagster")
@click.option("--all", "-a", "all_", is_flag=True, help="End all running workers.")
@_config_of_workers(default=None)
def worker_terminate_command(
    name: str = "dagster", config_yaml: str | None = None, all_: bool = False
) -> None:
    """Tell workers to end; do not wait until they have."""
    _say_newer("worker terminate", ["--all"] if all_ else [name])
    control = get_app(config_yaml).control
    chosen = None if all_ else [expand_node_name(get_worker_name(name)), name]
    told = control.broadcast("shutdown", destination=chosen, reply=True) or []
    names = [each for answer in told for each in answer]
    click.echo(f"Told to end: {', '.join(names) or 'no worker of that name is there'}.", err=True)


@click.command(
    name="status",
    help="Show which workers are online; the exit code is 69 when none is.",
    context_settings=dict(PASSED_ON),
)
@_config_of_workers(required=True)
@_app_option
@click.argument("additional_args", nargs=-1, type=click.UNPROCESSED)
def status_command(config_yaml: str, app: str | None, additional_args: tuple[str, ...]) -> None:
    """Print a line for each worker, as ``celery status`` does; its options are known."""
    if not app:
        raise ConfigError(NO_APP)
    _say_newer("status")
    try:
        context = _STATUS_OPTIONS.make_context("status", list(additional_args))
    except click.UsageError as error:
        raise ConfigError(f"status: {error.format_message()}") from None
    destination = context.params["destination"]
    chosen = destination.split(",") if destination else None
    replies = get_app(config_yaml).control.inspect(chosen).ping() or {}
    if context.params["json"]:
        click.echo(json.dumps(replies))
    else:
        for name in replies:
            click.echo(f"->  {name}: OK")
    if not replies:
        click.echo("Error: No nodes replied within time constraint", err=True)
        sys.exit(NOBODY_THERE)
    if not context.params["json"]:
        click.echo(f"\n{len(replies)} {'node' if len(replies) == 1 else 'nodes'} online.")


#: Options of ``celery status``, as they stand behind ``--``.
_STATUS_OPTIONS = click.Command(
    "status",
    params=[
        click.Option(["-t", "--timeout"], type=float),
        click.Option(["-d", "--destination"]),
        click.Option(["-j", "--json"], is_flag=True),
    ],
)


def create_worker_cli_group() -> click.Group:
    """Return the group of commands about workers."""
    group = click.Group(name="worker", help="Start, list and end workers.")
    group.add_command(worker_start_command)
    group.add_command(worker_terminate_command)
    group.add_command(worker_list_command)
    return group


worker_cli = create_worker_cli_group()


@click.group(cls=_Main, commands={"worker": worker_cli, "status": status_command})
def main() -> None:
    """dagster-celery, on taskiq. The commands are those of dagster-taskiq by their older names."""


def _say_newer(command: str, arguments: Sequence[str] = ()) -> None:
    newer = shlex.join([*COMMANDS[command].split(), *arguments])
    text = f"the command dagster-celery {command} is now: {newer}"
    warn_older(f"{text} (and -b URL, or -y with a config of taskiq_executor).", COMMAND_LINE)


def _bare(document: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the config of a file that has no ``execution:``: its own keys, if they are a config's.

    Another kind of file was taken for no config at all, without a word, and is with one.
    """
    from dagster_celery.executor import CELERY_CONFIG  # noqa: PLC0415

    if set(document) <= set(CELERY_CONFIG):
        return document
    warnings.warn(
        f"{path} has no `execution: config:`, so nothing of it is used and all defaults hold. It "
        f"begins with {next(iter(document))!r}; is it another kind of file?",
        UserWarning,
        stacklevel=3,
    )
    return {}


@contextmanager
def _importable(config_yaml: str | None) -> Iterator[None]:
    """Let this process, and its children, import the config of a file for as long as it runs."""
    if config_yaml is None:
        yield
        return
    from dagster_celery.make_app import CONFIG_FILE_ENV  # noqa: PLC0415

    directory = get_config_dir(config_yaml)
    sys.path.insert(0, directory)
    os.environ[CONFIG_FILE_ENV] = config_yaml
    try:
        yield
    finally:
        sys.path.remove(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _find_app(app: str) -> tuple[str, "CeleryApp | QueueBroker"]:
    """Return where an app is, as the engine's ``-A`` has it: ``module:name``; and the app.

    Args:
        app: ``module``, which has it as ``app`` or ``celery`` or by any name; ``module:name``; or
            ``module.name``.

    Raises:
        ConfigError: there is no such module, or no app in it.
    """
    from dagster_celery._celery_app import CeleryApp  # noqa: PLC0415
    from dagster_taskiq.transport.broker import QueueBroker  # noqa: PLC0415

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    name, _, attribute = app.partition(":")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        parent, _, last = name.rpartition(".")
        if attribute or not parent or error.name not in (name, parent):
            raise ConfigError(f"Cannot import the app {app}: {error}.") from error
        return _find_app(f"{parent}:{last}")
    names = [attribute] if attribute else ["app", "celery", *vars(module)]
    for each in names:
        found = getattr(module, each, None)
        if isinstance(found, CeleryApp | QueueBroker):
            return f"{name}:{each}", found
    theirs = [each for each in names if _is_celerys(getattr(module, each, None))]
    if theirs:
        raise ConfigError(
            f"{name}.{theirs[0]} is an app of Celery's own. Make it with "
            "dagster_celery.make_app.make_app(), and it is one that workers here can serve."
        )
    raise ConfigError(f"The module {name} has no app: write `app = make_app()` there.")


def _is_celerys(found: Any) -> bool:
    return type(found).__module__.partition(".")[0] == "celery"


def _configured(app: "CeleryApp | QueueBroker", has_queues: bool) -> list[str]:
    """Return the options of a worker that its app's configuration has, as arguments."""
    from dagster_celery._celery_app import CeleryApp  # noqa: PLC0415

    if not isinstance(app, CeleryApp):
        return []
    arguments = []
    for parameter, value in app.configuration.worker.items():
        if parameter == "queues" and has_queues:
            continue
        option = "--queue" if parameter == "queues" else f"--{parameter.replace('_', '-')}"
        for each in value if isinstance(value, list | tuple) else (value,):
            arguments += [option, str(each)]
    return arguments


__all__ = [
    "create_worker_cli_group",
    "get_app",
    "get_config_dir",
    "get_config_value_from_yaml",
    "get_validated_config",
    "get_worker_name",
    "launch_background_worker",
    "main",
    "status_command",
    "worker_cli",
    "worker_list_command",
    "worker_start_command",
    "worker_terminate_command",
]

door(__name__)
