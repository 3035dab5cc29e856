"""Files on the pages: each is read by what will read it, or held against its schema."""

import configparser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import tomli
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator
from dagster import Shape
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._serdes import ConfigurableClassData
from referencing import Registry, Resource

from compat_tests.docs.blocks import Block
from compat_tests.docs.outcome import Wrong
from compat_tests.docs.shell import check_requirement, check_shell, variables
from dagster_celery._cli.config_file import get_app
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS
from dagster_taskiq.settings.yaml_file import read_settings

Check = Callable[[Block], None]

#: The kinds of others than Kubernetes itself that we use, with the keys of their ``spec``, as their
#: documentation has them. The package with the schemas has Kubernetes' own alone.
OTHER_KINDS: dict[str, set[str]] = {
    "TriggerAuthentication": {"secretTargetRef", "podIdentity"},
    "ScaledObject": {
        *("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval"),
        *("cooldownPeriod", "advanced", "triggers"),
    },
    "PodMonitor": {"podMetricsEndpoints", "selector", "namespaceSelector", "jobLabel"},
    "ServiceMonitor": {"endpoints", "selector", "namespaceSelector", "jobLabel"},
}
KUSTOMIZATION = {
    *("apiVersion", "kind", "resources", "namespace", "images", "patches", "labels"),
    *("configMapGenerator", "secretGenerator", "replicas", "components"),
}
PROMETHEUS = {"global", "scrape_configs", "rule_files", "alerting"}
#: The keys of a job that Prometheus scrapes.
SCRAPE = {
    *("job_name", "authorization", "static_configs", "kubernetes_sd_configs", "relabel_configs"),
    *("metrics_path", "scheme", "scrape_interval", "scrape_timeout", "dns_sd_configs"),
    *("basic_auth", "tls_config", "ec2_sd_configs", "file_sd_configs"),
}
#: What is at the top of the values of Dagster's Helm chart.
HELM_VALUES = {
    *("runLauncher", "extraManifests", "dagsterWebserver", "dagsterDaemon", "postgresql"),
    *("dagster-user-deployments", "generatePostgresqlPasswordSecret", "global", "rabbitmq"),
    *("redis", "flower", "pythonLogs", "scheduler", "serviceAccount", "imagePullSecrets"),
}
DOCKER_INSTRUCTIONS = {
    *("FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "WORKDIR", "USER", "CMD", "ENTRYPOINT"),
    *("EXPOSE", "LABEL", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "SHELL"),
}
#: The keys of systemd's units that pages have, where no systemd-analyze can say what there is.
UNIT_KEYS = {
    *("Description", "Documentation", "After", "Before", "Wants", "Requires", "PartOf"),
    *("Type", "User", "Group", "WorkingDirectory", "Environment", "EnvironmentFile", "ExecStart"),
    *("ExecStartPre", "ExecStop", "ExecReload", "Restart", "RestartSec", "KillMode", "KillSignal"),
    *("TimeoutStartSec", "TimeoutStopSec", "Slice", "MemoryMax", "MemoryHigh", "CPUQuota"),
    *("LimitNOFILE", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp", "TasksMax"),
    *("ReadWritePaths", "StateDirectory", "RuntimeDirectory", "LogsDirectory", "WantedBy", "Nice"),
    *("StartLimitIntervalSec", "StartLimitBurst", "SuccessExitStatus", "SyslogIdentifier"),
    *(
        "OOMPolicy",
        "OOMScoreAdjust",
        "Delegate",
        "UMask",
        "SendSIGKILL",
        "RestartPreventExitStatus",
        "LoadCredential",
    ),
}


def mapping(block: Block) -> dict[str, Any]:
    """Return what a block of YAML holds.

    Raises:
        Wrong: it is not YAML, or no mapping.
    """
    try:
        document = yaml.safe_load(block.code)
    except yaml.YAMLError as error:
        raise Wrong(f"This is not YAML; correct it: {error}") from None
    if not isinstance(document, dict):
        raise Wrong("This YAML has no keys at its top; show the keys that the rest is under.")
    return document


def keys_of(document: Mapping[str, Any], known: set[str], what: str) -> None:
    """See that all keys are known ones.

    Raises:
        Wrong: one is not.
    """
    if unknown := set(document) - known:
        raise Wrong(
            f"{what} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}, as "
            "compat_tests/docs/files.py lists it."
        )


@contextmanager
def written(block: Block, name: str) -> Iterator[Path]:
    """Write a block to a file in a directory of its own, with the variables that it names set."""
    named = re.findall(r"\benv:\s*\"?(\w+)", block.code)
    before = dict(os.environ)
    os.environ.update({each: before.get(each, _value_for(each)) for each in named})
    try:
        with TemporaryDirectory(prefix="dagster-taskiq-docs-") as directory:
            path = Path(directory, name)
            path.write_text(block.code)
            yield path
    finally:
        os.environ.clear()
        os.environ.update(before)


def _value_for(variable: str) -> str:
    """Return what a variable could hold."""
    if "BACKEND" in variable or "BROKER" in variable or variable.endswith("URL"):
        return "redis://localhost" if "PG" not in variable else "postgresql://localhost/any"
    return "5432" if variable.endswith("PORT") else "any"


def check_dagster_yaml(block: Block) -> None:
    """Have Dagster read it, and each class in it check its own configuration; none is made."""
    mapping(block)
    with written(block, "dagster.yaml") as path:
        try:
            ref = InstanceRef.from_dir(str(path.parent))
            for data in (getattr(ref, name) for name in ref._fields):
                if isinstance(data, ConfigurableClassData):
                    _check_class(data)
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"Dagster refuses this dagster.yaml; correct it: {error}") from None


def _check_class(data: ConfigurableClassData) -> None:
    # A module of the reader's project, such as a launcher with middlewares.
    if data.module_name.partition(".")[0] == "my_project":
        return
    found = getattr(import_module(data.module_name), data.class_name, None)
    if found is None:
        raise Wrong(f"{data.module_name} has no {data.class_name}; name a class that it has.")
    outcome = process_config(resolve_to_config_type(found.config_type()), data.config_dict)
    if not outcome.success:
        errors = "; ".join(each.message for each in outcome.errors or ())
        raise Wrong(f"{data.class_name} refuses its config; correct it: {errors}")


def check_run_config(block: Block) -> None:
    """Check what is under ``execution: config:`` as the executor's; other keys are the job's."""
    document = mapping(block)
    keys_of(document, {"execution", "ops", "resources", "loggers", "inputs"}, "A run config")
    config = (document.get("execution") or {}).get("config")
    if config is None:
        raise Wrong("The executor's settings stand under `execution: config:`; put them there.")
    with written(block, "run.yaml"):
        outcome = process_config(Shape(dict(EXECUTOR_FIELDS)), config)
    if not outcome.success:
        errors = "; ".join(each.message for each in outcome.errors or ())
        raise Wrong(f"taskiq_executor refuses this config; correct it: {errors}")


def check_settings(block: Block) -> None:
    """Have the settings read as ``dagster-taskiq worker start -y`` reads them."""
    with written(block, "taskiq.yaml") as path:
        try:
            read_settings(path)
        except Exception as error:
            raise Wrong(f"dagster-taskiq refuses this file; correct it: {error}") from None


def check_celery_settings(block: Block) -> None:
    """Have an app made of it, as ``dagster-celery worker start -y`` makes one."""
    with written(block, "celery.yaml") as path:
        try:
            get_app(str(path))
        except Exception as error:
            raise Wrong(f"dagster-celery refuses this file; correct it: {error}") from None


def check_workspace(block: Block) -> None:
    """Have Dagster read which code locations there are; none is loaded."""
    mapping(block)
    with written(block, "workspace.yaml") as path:
        try:
            location_origins_from_yaml_paths([str(path)])
        except Exception as error:
            raise Wrong(f"Dagster refuses this workspace; correct it: {error}") from None


@cache
def schema(name: str) -> Any:
    """Return a schema from schemastore.org, as check-jsonschema brings it."""
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    return json.loads((folder / f"{name}.json").read_text())


def check_schema(block: Block, name: str) -> None:
    """Hold YAML against a schema.

    Args:
        block: the YAML; where it is a part of a file, what the schema requires may be missing.
        name: the schema's.

    Raises:
        Wrong: it is not as the schema has it.
    """
    validator = jsonschema.validators.validator_for(schema(name))(schema(name))
    # `on:` of a workflow is read as a truth value.
    document = {"on" if key is True else key: value for key, value in mapping(block).items()}
    raise_first(validator.iter_errors(document), block, name)


def raise_first(errors: Iterator[jsonschema.ValidationError], block: Block, name: str) -> None:
    """Raise the error that tells most, if there is one."""
    counted = [
        each
        for each in errors
        if not (each.validator == "required" and block.note("part of") is not None)
    ]
    if counted:
        worst = jsonschema.exceptions.best_match(iter(counted)) or counted[0]
        place = ".".join(str(each) for each in worst.absolute_path) or "the top"
        raise Wrong(f"As {name}, this is wrong at {place}; correct it: {worst.message}")


def check_compose(block: Block) -> None:
    """Hold it against the Compose specification, and the commands of our services against ours."""
    check_schema(block, "compose-spec")
    for service in (mapping(block).get("services") or {}).values():
        command = service.get("command")
        words = command if isinstance(command, list) else [command] if command else []
        line = " ".join(words)
        if line.startswith(("dagster-taskiq", "dagster-celery")):
            check_shell(line.replace("$$", "$"), block.page)
        environment = service.get("environment") or {}
        _check_variables(" ".join(environment))


def check_workflow(block: Block) -> None:
    """Hold it against the schema of GitHub's workflows."""
    check_schema(block, "github-workflows")


def check_kubernetes(block: Block) -> None:
    """Hold each manifest against the schemas of Kubernetes, strictly."""
    try:
        manifests = [each for each in yaml.safe_load_all(block.code) if each]
    except yaml.YAMLError as error:
        raise Wrong(f"This is not YAML; correct it: {error}") from None
    for manifest in manifests:
        kind = manifest.get("kind", "")
        if kind == "Kustomization":
            keys_of(manifest, KUSTOMIZATION, "A kustomization.yaml")
        elif kind in OTHER_KINDS:
            keys_of(manifest.get("spec") or {}, OTHER_KINDS[kind], f"The spec of a {kind}")
        else:
            _check_manifest(manifest)
        _check_container(manifest, block)


def _check_manifest(manifest: dict[str, Any]) -> None:
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(str(each) for each in error.path) or "the top"
        raise Wrong(f"Kubernetes refuses this at {place}; correct it: {error.message}") from None
    except (kubernetes_validate.SchemaNotFoundError, KeyError) as error:
        raise Wrong(
            f"There is no schema for this manifest ({error}): correct `apiVersion` and `kind`, or "
            "add the kind to OTHER_KINDS of compat_tests/docs/files.py."
        ) from None


def check_part_of_manifest(block: Block) -> None:
    """Check a piece of a manifest, in its place below the kind: what is required may be missing."""
    kind, *path = str(block.note("part of")).split(".")
    document: Any = mapping(block)
    _check_container(document, block)
    for key in reversed(path):
        document = {key: document}
    if kind in OTHER_KINDS:
        keys_of(document["spec"], OTHER_KINDS[kind], f"The spec of a {kind}")
        return
    version = f"v{kubernetes_validate.latest_version()}-local-strict"
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    found = [
        each
        for each in sorted(folder.glob(f"{version}/{kind.lower()}-*.json"))
        if not each.stem.startswith("_")
    ]
    if not found:
        raise Wrong(f"Kubernetes has no kind {kind}; write `part of KIND.spec`, and so on.")
    definitions = json.loads((folder / version / "_definitions.json").read_text())
    schema = json.loads(found[-1].read_text())
    registry = Resource.from_contents(definitions) @ (Resource.from_contents(schema) @ Registry())
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    raise_first(validator.iter_errors({"kind": kind, **document}), block, f"a {kind}")


def _check_container(manifest: Any, block: Block) -> None:
    """Check the command lines and variables of containers that are ours, wherever they are."""
    if isinstance(manifest, list):
        for each in manifest:
            _check_container(each, block)
    if not isinstance(manifest, dict):
        return
    words = [*(manifest.get("command") or ()), *(manifest.get("args") or ())]
    if words and words[0] in ("dagster-taskiq", "dagster-celery"):
        check_shell(" ".join(f"'{each}'" for each in words), block.page)
    if isinstance(manifest.get("env"), list):
        _check_variables(" ".join(str(each.get("name")) for each in manifest["env"]))
    for each in manifest.values():
        _check_container(each, block)


def _check_variables(text: str) -> None:
    for variable in set(re.findall(r"\bDAGSTER_TASKIQ_\w+", text)) - variables():
        raise Wrong(f"{variable} is not in docs/reference/environment.md; name one that is.")


def check_helm_values(block: Block) -> None:
    """See that the keys at the top are those of the chart, and check the manifests in it."""
    document = mapping(block)
    keys_of(document, HELM_VALUES, "values.yaml of Dagster's chart")
    _check_container(document, block)


def check_prometheus(block: Block) -> None:
    """See that its keys, and those of its jobs, are Prometheus's."""
    document = mapping(block)
    keys_of(document, PROMETHEUS, "Prometheus's configuration")
    for job in document.get("scrape_configs") or ():
        keys_of(job, SCRAPE, "A job of Prometheus's")


def check_rules(block: Block) -> None:
    """See that what each alert rule asks is an expression of Prometheus's."""
    for group in mapping(block).get("groups") or ():
        for rule in group["rules"]:
            _check_promql(rule["expr"])


def check_promql(block: Block) -> None:
    """See that each paragraph is an expression of Prometheus's."""
    for each in re.split(r"\n\s*\n", block.code.strip()):
        _check_promql(each)


def _check_promql(text: str) -> None:
    try:
        promql_parser.parse(text)
    except ValueError as error:
        raise Wrong(f"Prometheus cannot read `{text}`; correct it: {error}") from None


def check_systemd(block: Block) -> None:
    """Have systemd verify the unit, or where it is not there see that the keys are known ones."""
    if not (name := str(block.name)).startswith("/etc/systemd/"):
        raise Wrong(f"Name the unit by its whole path, such as /etc/systemd/system/{name}.")
    for line in re.findall(r"^Exec\w+=(?:[-+!@:]*)(.*)$", block.code, re.MULTILINE):
        program, _, arguments = line.partition(" ")
        if (called := Path(program).name) in ("dagster-taskiq", "dagster-celery"):
            check_shell(f"{called} {arguments.replace('%', '')}", block.page)
    _check_variables(block.code)
    verify = shutil.which("systemd-analyze")
    if verify is None:
        for key in set(re.findall(r"^(\w+)\s*=", block.code, re.MULTILINE)) - UNIT_KEYS:
            raise Wrong(f"{key} is not among UNIT_KEYS of compat_tests/docs/files.py; is it real?")
        return
    # That the programs and users are on this machine is not what the page says.
    here = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", block.code, flags=re.MULTILINE)
    with TemporaryDirectory(prefix="dagster-taskiq-docs-") as directory:
        unit = Path(directory, Path(name).name)
        if unit.suffix == ".conf":  # adds to a unit, which is verified with it
            unit = Path(directory, Path(name).parent.name.removesuffix(".d").replace("@.", "@any."))
            unit.write_text("[Service]\nExecStart=/bin/true\n")
            added = Path(directory, *Path(name).parts[-2:])
            added.parent.mkdir()
            added.write_text(here)
        else:
            unit.write_text(here)
        command = [verify, "verify", "--man=no", "--recursive-errors=no", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if directory in line or unit.name in line]
    if told:
        raise Wrong(f"systemd-analyze verify says, so correct it: {'; '.join(told)}")


def check_task_definition(block: Block) -> None:
    """Hold it against what Amazon ECS takes as a task definition."""
    document = _json(block)
    model = get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    report = ParamValidator().validate(document, model.input_shape)
    if report.has_errors():
        raise Wrong(f"ECS refuses this task definition; correct it: {report.generate_report()}")
    unknown = set(document) - set(model.input_shape.members)
    if unknown:
        raise Wrong(f"A task definition of ECS has no {', '.join(sorted(unknown))}; take it away.")
    _check_container(document["containerDefinitions"], block)
    for container in document["containerDefinitions"]:
        _check_variables(" ".join(each["name"] for each in container.get("environment", ())))
        known = set(model.input_shape.members["containerDefinitions"].member.members)
        keys_of(container, known, "A container of ECS")


def check_policy(block: Block) -> None:
    """See that it is a policy of AWS's, and that the actions in it are there."""
    document = _json(block)
    keys_of(document, {"Version", "Statement", "Id"}, "A policy of AWS's")
    keys = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition", "NotAction"}
    for statement in document["Statement"]:
        keys_of(statement, keys, "A statement of a policy")
        action = statement.get("Action", [])
        for each in action if isinstance(action, list) else [action]:
            service, _, operation = each.partition(":")
            known = get_session().get_service_model(service).operation_names
            if operation not in known and "*" not in operation:
                raise Wrong(f"{service} of AWS has no action {operation}; name one that it has.")


def _json(block: Block) -> dict[str, Any]:
    try:
        document = json.loads(block.code)
    except ValueError as error:
        raise Wrong(f"This is not JSON; correct it: {error}") from None
    if not isinstance(document, dict):
        raise Wrong("This JSON is no object; show the whole file.")
    return document


def check_json(block: Block) -> None:
    """Check JSON without a name: a policy of AWS's can be told by its keys."""
    if "Statement" in _json(block):
        check_policy(block)
    else:
        raise _without_name("JSON", "<!-- file: task-definition.json -->")


def check_toml(block: Block) -> None:
    """Have it parsed; what it asks pip for is checked as requirements."""
    try:
        document = tomli.loads(block.code)
    except tomli.TOMLDecodeError as error:
        raise Wrong(f"This is not TOML; correct it: {error}") from None
    project = document.get("project") or {}
    for each in project.get("dependencies") or ():
        check_requirement(each)
    for each in ((document.get("tool") or {}).get("uv") or {}).get("override-dependencies") or ():
        check_requirement(each)


def check_ini(block: Block) -> None:
    """Have it parsed."""
    try:
        configparser.ConfigParser(interpolation=None, strict=True).read_string(block.code)
    except configparser.Error as error:
        raise Wrong(f"This is not INI; correct it: {error}") from None


def check_variables_file(block: Block) -> None:
    """See that each line sets a variable, and that ours are there."""
    for line in block.code.splitlines():
        if line and not line.startswith("#") and not re.fullmatch(r"\w+=.*", line):
            raise Wrong(f"`{line}` sets no variable; write NAME=value.")
    _check_variables(block.code)


def check_requirements_file(block: Block) -> None:
    """See that pip can read each line."""
    for line in block.code.splitlines():
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if text and not text.startswith(("-", ".", "/")):
            check_requirement(text)


def check_dockerfile(block: Block) -> None:
    """See that the instructions are there, and check the commands that are run."""
    for line in re.sub(r"\\\n", " ", block.code).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction not in DOCKER_INSTRUCTIONS:
            raise Wrong(f"{instruction} is no instruction of a Dockerfile; correct it.")
        if instruction == "RUN":
            check_shell(re.sub(r"^(--\S+ )+", "", rest), block.page)
        elif instruction in ("CMD", "ENTRYPOINT") and rest.startswith('["dagster-'):
            check_shell(" ".join(json.loads(rest)), block.page)
        elif instruction == "ENV":
            _check_variables(rest)


def check_yaml(block: Block) -> None:
    """Check YAML without a name: manifests and run configs can be told by their keys."""
    if re.search(r"^apiVersion:", block.code, re.MULTILINE):
        check_kubernetes(block)
    elif "execution" in mapping(block):
        check_run_config(block)
    else:
        raise _without_name("YAML", "# dagster.yaml")


def _without_name(what: str, example: str) -> Wrong:
    return Wrong(
        f"This {what} is of a kind that cannot be told: name its file, as `{example}`, or if it is "
        "a piece of one, `<!-- snippet: part of FILE -->` before it."
    )


#: What checks a file, by patterns of its name (without the directory) or its whole path.
FILES: dict[str, Check] = {
    "dagster.yaml": check_dagster_yaml,
    "workspace.yaml": check_workspace,
    "run.yaml": check_run_config,
    "run_config.yaml": check_run_config,
    "taskiq.yaml": check_settings,
    "worker.yaml": check_settings,
    "celery.yaml": check_celery_settings,
    "compose*.y*ml": check_compose,
    "docker-compose*.y*ml": check_compose,
    ".github/workflows/*.y*ml": check_workflow,
    "kustomization.yaml": check_kubernetes,
    "values*.yaml": check_helm_values,
    "prometheus.y*ml": check_prometheus,
    "alerts.yaml": check_rules,
    "rules.yaml": check_rules,
    "*.service": check_systemd,
    "*.timer": check_systemd,
    "*.slice": check_systemd,
    "/etc/systemd/*.conf": check_systemd,
    "task-definition*.json": check_task_definition,
    "*policy*.json": check_policy,
    "*.toml": check_toml,
    "*.ini": check_ini,
    "*.cfg": check_ini,
    "*.env": check_variables_file,
    "requirements*.txt": check_requirements_file,
    "constraints*.txt": check_requirements_file,
    "Dockerfile*": check_dockerfile,
    "*.Dockerfile": check_dockerfile,
}
