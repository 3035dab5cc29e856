"""The site of docs/ (``make docs`` builds it), and what runs elsewhere: CI, and Read the Docs."""

import runpy
from pathlib import Path

import pytest
import tomli
import yaml

from compat_tests.checkout import ROOT
from compat_tests.docs.blocks import Block
from compat_tests.docs.files import check_schema, check_workflow

#: The most characters of an entry of the side bar, which has one line for each.
ENTRY = 30

CONF = runpy.run_path(str(ROOT / "docs" / "conf.py"))
HIDDEN = pytest.mark.skipif(
    not (ROOT / ".github").exists(), reason="The published sources have what is for packages alone."
)


def block_of(path: Path) -> Block:
    return Block(str(path.relative_to(ROOT)), 1, "yaml", path.read_text())


def test_the_side_bar_has_every_page_in_few_words() -> None:
    entries = [entry for section in CONF["sections"]() for entry in section.pages]
    pages = {
        str(path.relative_to(ROOT / "docs").with_suffix(""))
        for suffix in ("md", "rst")
        for path in (ROOT / "docs").rglob(f"*.{suffix}")
    }
    assert {page for _, page in entries} == pages - {"README", "index"}
    assert [text for text, _ in entries if len(text) > ENTRY] == []


def test_each_section_of_the_map_has_a_sentence() -> None:
    for section in CONF["sections"]():
        assert section.sentence.endswith("."), section.title


def test_the_first_page_shows_the_map() -> None:
    assert ".. the map\n" in (ROOT / "docs" / "index.rst").read_text()
    assert CONF["cards"]().count(":doc:") == sum(len(each.pages) for each in CONF["sections"]())


@HIDDEN
def test_the_workflow_is_valid_and_runs_the_checks_of_every_push() -> None:
    block = block_of(ROOT / ".github" / "workflows" / "ci.yml")
    check_workflow(block)
    steps = yaml.safe_load(block.code)["jobs"]["test"]["steps"]
    assert [each["run"] for each in steps if "run" in each] == [".ci/run"]
    assert steps[3]["with"]["path"] == "build/docs"


@HIDDEN
def test_read_the_docs_builds_it_from_the_same_configuration() -> None:
    block = block_of(ROOT / ".readthedocs.yaml")
    check_schema(block, "readthedocs")
    document = yaml.safe_load(block.code)
    assert (ROOT / document["sphinx"]["configuration"]).exists()
    (install,) = document["python"]["install"]
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(install["extra_requirements"]) <= set(project["optional-dependencies"])
