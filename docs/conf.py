"""How Sphinx makes the documentation site of the pages: ``make docs``.

The pages are Markdown that reads well on GitHub. What a site needs beyond that is made here: the
side bar from ``README.md``, the map of the pages, and addresses on GitHub for links to files
outside this folder.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import click
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from dagster_taskiq.version import __version__

HERE = Path(__file__).parent
MAP = HERE / "README.md"
REPOSITORY = "https://github.com/dagster-taskiq/dagster-taskiq"

project = "dagster-taskiq"
author = "The dagster-taskiq developers"
project_copyright = author
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["README.md"]
# As GitHub makes them. test_docs.py holds that every anchor that a page names is there.
myst_heading_anchors = 6
myst_enable_extensions = ["strikethrough"]

# Quotes and dashes stay as they are written, since many belong to commands.
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
napoleon_numpy_docstring = False
# Names of other projects, and those of ours that no page describes: they have no target here.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(dagster|dagster_shared|taskiq|taskiq_dependencies|pydantic|pydantic_core)(\..*)?",
    ),
    (r"py:.*", r"(collections|typing|typing_extensions|datetime|abc|enum|pathlib|pytest)(\..*)?"),
    (r"py:.*", r"dagster_taskiq\.(settings|transport|wire|schedules|sent_tasks|runs)\..*"),
]

html_theme = "furo"
html_title = f"dagster-taskiq {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_copy_source = False
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view", "edit"],
    "navigation_with_keys": True,
}
copybutton_exclude = ".linenos, .gp, .go"

linkcheck_timeout = 20
linkcheck_workers = 4
# What pages name as an example, and what is there once a release is published.
linkcheck_ignore = [r"https?://localhost", r"https?://example\.", rf"{REPOSITORY}/.*"]


class Section(NamedTuple):
    """A section of the map."""

    title: str
    #: The sentence below the title.
    sentence: str
    #: The pages: what each is called, and its path without suffix.
    pages: list[tuple[str, str]]


def sections() -> list[Section]:
    """Return the sections of the map that have pages."""
    found = []
    for text in MAP.read_text("utf-8").split("\n## ")[1:]:
        title, _, body = text.partition("\n")
        sentence = body.strip().partition("\n\n")[0].replace("\n", " ")
        pages = re.findall(r"^- \[([^]]+)\]\(([^)]+)\.(?:md|rst)\)", body, re.MULTILINE)
        if pages:
            found.append(Section(title, sentence, pages))
    return found


def side_bar() -> str:
    """Return a toctree for each section of the map, as reStructuredText."""
    return "\n".join(
        f".. toctree::\n   :caption: {section.title}\n   :hidden:\n\n"
        + "".join(f"   {text} <{page}>\n" for text, page in section.pages)
        for section in sections()
    )


def cards() -> str:
    """Return a card for each section of the map, as reStructuredText."""
    lines = [".. container:: cards", ""]
    for section in sections():
        lines += ["   .. container:: card", "", f"      .. rubric:: {section.title}", ""]
        lines += [f"      {section.sentence}", ""]
        lines += [f"      - :doc:`{text} <{page}>`" for text, page in section.pages] + [""]
    return "\n".join(lines)


def add_map(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the map into the first page, and make it the side bar (a handler of Sphinx's)."""
    if docname == "index":
        source[0] = source[0].replace(".. the map\n", cards()) + f"\n{side_bar()}"
        app.env.note_dependency(str(MAP))


def show_examples(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Show the examples below a command as code (a handler of sphinx-click's)."""
    # Lines that click is told to leave as they are become a line block.
    found = [line.removeprefix("| ").removeprefix("|") for line in lines]
    lines[:] = []
    for line in found:
        if line.startswith("  "):
            if lines[-1] and not lines[-1].startswith("   "):
                lines += ["", ".. code-block:: sh", ""]
            lines.append(f"   {line.strip()}")
        else:
            lines += ["", line] if line else [""]


class LinksOutside(SphinxTransform):
    """Links to files that are not pages lead to GitHub, and those to the map to the first page."""

    # Before the links of a page are read by anything.
    default_priority = 5

    def apply(self) -> None:
        """Replace them."""
        for node in list(self.document.findall(addnodes.download_reference)):
            self._replace(node, node["reftarget"])
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("refdomain") == "doc":  # Markdown that is no page
                anchor = f"#{node['reftargetid']}" if node.get("reftargetid") else ""
                self._replace(node, f"{node['reftarget']}.md{anchor}")
            elif node.get("reftype") == "myst":
                self._replace(node, node["reftarget"])

    def _replace(self, node: nodes.Element, target: str) -> None:
        name, _, anchor = target.partition("#")
        page = Path(str(self.env.doc2path(self.env.docname)))
        path = Path(os.path.normpath(page.parent / name))
        # What is a page has its target on the site, and what is not there is told.
        is_page = path.is_relative_to(HERE) and path.suffix in (".md", ".rst") and path != MAP
        if not name or is_page or not path.exists():
            return
        if path == MAP:
            address = "../" * self.env.docname.count("/") + "index.html"
        else:
            kind = "tree" if path.is_dir() else "blob"
            address = f"{REPOSITORY}/{kind}/main/{path.relative_to(HERE.parent)}"
        if anchor:
            address += f"#{anchor}"
        link = nodes.reference("", "", *node.children, refuri=address, internal=False)
        node.replace_self(link)


def setup(app: Sphinx) -> None:
    """Connect what is defined here."""
    app.connect("source-read", add_map)
    app.connect("sphinx-click-process-epilog", show_examples)
    app.add_transform(LinksOutside)
