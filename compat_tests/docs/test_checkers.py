"""The checkers of blocks tell what is wrong, and let pass what is right."""

import re

import pytest

from compat_tests.docs.blocks import blocks_in, spans_in
from compat_tests.docs.checkers import check, sides
from compat_tests.docs.outcome import Wrong
from compat_tests.docs.python_blocks import execute
from compat_tests.docs.shell import commands_in

PAGE = "docs/how-to/any.md"


def page(language: str, code: str, before: str = "") -> str:
    return f"# Title\n\nA sentence.\n\n{before}\n```{language}\n{code}\n```\n"


UNIT = """# /etc/systemd/system/dagster-worker.service
[Service]
User=dagster
{key}=mixed
ExecStart=/opt/dagster/bin/dagster-taskiq worker start {option} 4
"""
DROP_IN = """# /etc/systemd/system/dagster-worker@.service.d/secrets.conf
[Service]
{key}=ca.pem:/etc/ca.pem
"""
COMPOSE = """# compose.yaml
services:
  worker:
    image: shop
    {key}: always
    command: ["dagster-taskiq", "worker", "start", "{option}", "4"]
"""
DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {{name: worker}}
spec:
  {key}: 2
  selector: {{matchLabels: {{app: worker}}}}
  template:
    metadata: {{labels: {{app: worker}}}}
    spec:
      containers:
        - name: worker
          image: shop
          command: [dagster-taskiq]
          args: [worker, start, {option}, "4"]
"""
DAGSTER = """# dagster.yaml
storage:
  postgres:
    postgres_url: {{env: DAGSTER_PG_URL}}
run_launcher:
  module: dagster_taskiq
  class: {name}
  config:
    {key}: crunch
"""
TASK = """{{"family": "worker", "containerDefinitions": [
  {{"name": "worker", "image": "shop", "{key}": 120, "command": ["dagster-taskiq", "status"]}}]}}"""
POLICY = """{{"Version": "2012-10-17", "Statement": [
  {{"Effect": "Allow", "Action": "sqs:{name}", "Resource": "*"}}]}}"""

GOOD = {
    "output": page("text", "$ anything goes"),
    "command": page("sh", "dagster-taskiq worker start -q a,b -c 2 \\\n  | tee log && make demo"),
    "requirement": page("sh", "pip install 'dagster-taskiq[sqs]' dagster-postgres"),
    "python": page("python", "import asyncio\nawait asyncio.sleep(0)\nassert 1 + 1 == 2"),
    "python with a part that is not shown": page(
        "python", "assert two == 2", "<!-- snippet: before\ntwo = 2\n-->"
    ),
    "python that raises": page("python", "1 / 0", "<!-- snippet: raises ZeroDivisionError -->"),
    "python that is not run": page(
        "python", "from dagster import job\nfor ever", "<!-- snippet: not run: no end -->"
    ).replace("for ever", "while True: ..."),
    "a module and its user": page("python", "# my_project/tasks.py\nfour = 4")
    + page("python", "from my_project.tasks import four\nassert four == 4"),
    "a test": page("python", "# tests/test_it.py\ndef test_it(sent_tasks): assert not sent_tasks"),
    "dagster.yaml": page("yaml", DAGSTER.format(name="TaskiqRunLauncher", key="queue")),
    "workspace.yaml": page("yaml", "# workspace.yaml\nload_from:\n  - python_module: shop"),
    "a run config": page("yaml", "execution:\n  config:\n    max_concurrent: 20"),
    "taskiq.yaml": page("yaml", "# taskiq.yaml\nbroker: {env: BROKER_URL}\nqueue: crunch"),
    "celery.yaml": page("yaml", "# celery.yaml\nexecution:\n  config:\n    backend: rpc://"),
    "compose.yaml": page("yaml", COMPOSE.format(key="restart", option="-c")),
    "a workflow": page(
        "yaml",
        "# .github/workflows/ci.yaml\non: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n"
        "    steps:\n      - run: make test",
    ),
    "a manifest": page("yaml", DEPLOYMENT.format(key="replicas", option="-c")),
    "a piece of a manifest": page(
        "yaml", "replicas: 3", "<!-- snippet: part of Deployment.spec -->"
    ),
    "a piece of one of KEDA's": page(
        "yaml", "minReplicaCount: 3", "<!-- snippet: part of ScaledObject.spec -->"
    ),
    "values.yaml": page("yaml", "# values.yaml\nrunLauncher: {type: CustomRunLauncher}"),
    "prometheus.yml": page("yaml", "# prometheus.yml\nscrape_configs:\n  - job_name: monitor"),
    "alerts.yaml": page("yaml", "# alerts.yaml\ngroups:\n  - rules:\n    - expr: up == 0"),
    "an expression": page("promql", "sum by (queue) (rate(dagster_taskiq_x[5m]))"),
    "a unit": page("ini", UNIT.format(key="KillMode", option="-c")),
    "what is added to a unit": page("ini", DROP_IN.format(key="LoadCredential")),
    "a task definition": page(
        "json", TASK.format(key="stopTimeout"), "<!-- file: task-definition.json -->"
    ),
    "a policy": page("json", POLICY.format(name="SendMessage")),
    "pyproject.toml": page("toml", '# pyproject.toml\n[project]\ndependencies = ["dagster"]'),
    "ini": page("ini", "# pytest.ini\n[pytest]\naddopts = -p dagster_taskiq.testing"),
    "variables": page("ini", "# worker.env\nDAGSTER_TASKIQ_BROKER=redis://r"),
    "requirements.txt": page("text", "# requirements.txt\ndagster-taskiq[redis]>=0.1"),
    "Dockerfile": page("dockerfile", "# Dockerfile\nFROM python\nRUN pip install dagster-taskiq"),
    "a diff": page(
        "diff", "-import dagster_celery\n+import dagster_taskiq", "<!-- snippet: diff of python -->"
    ),
    "sql": page("sql", "SELECT 1;\nCREATE ROLE shop LOGIN;\nCREATE DATABASE shop OWNER shop;\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD)
def test_what_is_right_passes(what: str) -> None:
    blocks = blocks_in(GOOD[what], PAGE)
    assert blocks
    for block in blocks:
        if block.language == "python" and block.note("not run") is None:
            continue
        check(block)
    executed = [each for each in blocks if each.language == "python" and not each.note("not run")]
    assert set(execute(executed).values()) <= {""}


#: What is wrong, and a part of what is said about it.
BAD: dict[str, tuple[str, str]] = {
    "no fences": ("A sentence.\n\n    make demo\n", "Put this between fences"),
    "no language": (page("", "make demo"), "Write a language"),
    "another name of a language": (page("bash", "make demo"), "Write `sh` in place of `bash`"),
    "a language that nothing checks": (page("cobol", "STOP RUN."), "Nothing checks `cobol`"),
    "a file that nothing checks": (page("text", "# x.foo\na"), "Nothing checks a file x.foo"),
    "a note without a meaning": (
        page("sh", "make demo", "<!-- snippet: skip -->"),
        "`snippet: skip` has no meaning",
    ),
    "a prompt": (page("sh", "$ make demo"), "Take the prompts away"),
    "no shell": (page("sh", "echo 'open"), "bash cannot read this"),
    "a command": (page("sh", "dagster-taskiq wroker start"), "there is no command wroker"),
    "an option": (page("sh", "cd /srv && dagster-taskiq status --fats"), "No such option"),
    "a value": (page("sh", "dagster-taskiq worker start -c many"), "not a valid integer"),
    "an argument that is missing": (page("sh", "dagster-taskiq stand-in"), "Missing option"),
    "an option of Dagster's": (page("sh", "dagster job execute --jop x"), "No such option"),
    "a program": (page("sh", "dagstre dev"), "dagstre is a program that"),
    "a target of make": (page("sh", "make coffee"), "no target coffee"),
    "an extra": (page("sh", "pip install 'dagster-taskiq[mysql]'"), "no extra mysql"),
    "a variable": (page("sh", "export DAGSTER_TASKIQ_BORKER=x"), "DAGSTER_TASKIQ_BORKER is not"),
    "an import that is not run": (
        page("python", "from dagster_taskiq import nothing", "<!-- snippet: not run: no end -->"),
        "cannot import name 'nothing'",
    ),
    "no reason": (page("python", "1", "<!-- snippet: not run: -->"), "Say why"),
    "dagster.yaml, class": (
        page("yaml", DAGSTER.format(name="Launcher", key="queue")),
        "dagster_taskiq has no Launcher",
    ),
    "dagster.yaml, field": (
        page("yaml", DAGSTER.format(name="TaskiqRunLauncher", key="qeueu")),
        'unexpected config entry "qeueu"',
    ),
    "dagster.yaml, section": (page("yaml", "# dagster.yaml\nrun_lanucher: {}"), "run_lanucher"),
    "workspace.yaml": (page("yaml", "# workspace.yaml\nload_form: []"), "load_form"),
    "a run config": (page("yaml", "execution: {config: {max: 1}}"), 'config entry "max"'),
    "taskiq.yaml": (page("yaml", "# taskiq.yaml\nqeueu: crunch"), "qeueu"),
    "celery.yaml": (page("yaml", "# celery.yaml\nexecution: {config: {a: 1}}"), "refuses this"),
    "compose.yaml": (page("yaml", COMPOSE.format(key="restrat", option="-c")), "restrat"),
    "compose.yaml, command": (
        page("yaml", COMPOSE.format(key="restart", option="--fast")),
        "No such option",
    ),
    "a workflow": (page("yaml", "# .github/workflows/ci.yaml\non: push"), "'jobs' is a required"),
    "a manifest": (page("yaml", DEPLOYMENT.format(key="replica", option="-c")), "'replica'"),
    "a manifest, command": (
        page("yaml", DEPLOYMENT.format(key="replicas", option="--fast")),
        "No such option",
    ),
    "a kind": (page("yaml", "apiVersion: apps/v1\nkind: Deplyoment"), "no schema for this"),
    "a piece of a manifest": (
        page("yaml", "replica: 3", "<!-- snippet: part of Deployment.spec -->"),
        "'replica'",
    ),
    "a piece of one of KEDA's": (
        page("yaml", "minReplicas: 3", "<!-- snippet: part of ScaledObject.spec -->"),
        "has no minReplicas",
    ),
    "values.yaml": (page("yaml", "# values.yaml\nrunLanucher: {}"), "has no runLanucher"),
    "prometheus.yml": (page("yaml", "# prometheus.yml\nscrape: []"), "has no scrape"),
    "alerts.yaml": (page("yaml", "# alerts.yaml\ngroups: [{rules: [{expr: up ==}]}]"), "up =="),
    "an expression": (page("promql", "sum by (queue"), "Prometheus cannot read"),
    "YAML of no known kind": (page("yaml", "triggers: []"), "name its file"),
    "no YAML": (page("yaml", "# dagster.yaml\na: b: c"), "not YAML"),
    "a unit, key": (page("ini", UNIT.format(key="KilMode", option="-c")), "KilMode"),
    "what is added to a unit, key": (page("ini", DROP_IN.format(key="Credential")), "Credential"),
    "a unit, command": (page("ini", UNIT.format(key="KillMode", option="-z")), "No such option"),
    "a task definition": (
        page("json", TASK.format(key="stopTimout"), "<!-- file: task-definition.json -->"),
        "stopTimout",
    ),
    "a policy": (page("json", POLICY.format(name="SendMail")), "no action SendMail"),
    "JSON of no known kind": (page("json", "{}"), "name its file"),
    "no TOML": (page("toml", "a = "), "not TOML"),
    "no INI": (page("ini", "addopts"), "not INI"),
    "variables": (page("ini", "# worker.env\nDAGSTER_TASKIQ_X=1"), "DAGSTER_TASKIQ_X is not"),
    "requirements.txt": (page("text", "# requirements.txt\na b"), "does not take the requirement"),
    "Dockerfile": (page("dockerfile", "FROM a\nRAN b"), "RAN is no instruction"),
    "a diff of what": (page("diff", "-a\n+b"), "Say what both sides of the diff are"),
    "a diff": (
        page("diff", "-a = 1\n+import dagster_taskiq.none", "<!-- snippet: diff of python -->"),
        "No module named 'dagster_taskiq.none'",
    ),
    "sql": (page("sql", "SELECT 1;\nSELEKT 2;\n"), "PostgreSQL refuses this"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_told(what: str) -> None:
    text, told = BAD[what]
    (block,) = blocks_in(text, PAGE)
    with pytest.raises(Wrong, match=re.escape(told)):
        check(block)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (page("python", "a = 1\nb = a +"), "SyntaxError"),
        (page("python", "a = 1\nassert a == 2"), "line 2 of the block: AssertionError"),
        (page("python", "a = 1", "<!-- snippet: raises KeyError -->"), "It raises no KeyError"),
        (page("python", "# test_it.py\ndef test_it(): assert 0"), "pytest ended with"),
        (page("python", "# shop.py\nimport nothing"), "No module named 'nothing'"),
        (page("python", "import os\nos._exit(3)"), "it was not reached"),
    ],
)  # fmt: skip
def test_python_that_goes_wrong_is_told(text: str, told: str) -> None:
    blocks = blocks_in(text, PAGE)
    (error,) = execute(blocks).values()
    assert told in error


def test_a_block_knows_where_it_is_and_what_it_is() -> None:
    text = (
        "<!-- file: a.json -->\n```json\n{}\n```\n\n"
        "- in a list:\n\n  ```python\n  # shop.py, with a remark\n  a = 1\n  ```\n\n"
        "<!-- snippet: raises KeyError -->\nA sentence between.\n\n```text\n# Heading\n```\n"
    )
    json, python, output = blocks_in(text, PAGE)
    assert (json.line, json.name, json.code) == (2, "a.json", "{}\n")
    assert (python.line, python.name) == (8, "shop.py")
    assert (output.name, output.notes) == (None, ())


def test_commands_are_found_behind_what_stands_before_them() -> None:
    code = (
        "A=1 sudo x -a | sudo -u me y > out.txt; (z)  # w\n"
        "for i in 1 2; do u $i; done\ncat <<E\nno\nE\n"
    )
    assert [words[0] for words in commands_in(code)] == ["x", "y", "z", "u", "cat"]


def test_a_diff_has_two_sides() -> None:
    assert sides(" a\n-b\n+c\n") == ("a\nb\n", "a\nc\n")


def test_spans_are_found_in_tables_and_not_in_blocks() -> None:
    text = "A `b`.\n\n| c | d |\n|---|---|\n| `e` | f |\n\n```sh\n`g`\n```\n"
    assert list(spans_in(text)) == ["b", "e"]
