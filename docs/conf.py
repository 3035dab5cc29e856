"""How Sphinx makes the documentation site of the pages: ``make docs``.

The pages are Markdown that reads well on GitHub. What a site needs beyond that is made here: the
side bar from ``README.md``, the map of the pages, and addresses on GitHub for links to files
outside this folder.
"""

import os
import re
from pathlib import Path

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

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
napoleon_numpy_docstring = False
# Names of other projects, and those of ours that no page describes: they have no target here.
nitpick_ignore_regex = [
    (r"py:.*", r"(dagster|dagster_shared|taskiq|taskiq_dependencies|pydantic|pydantic_core)(\..*)?"),
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


def toctrees() -> str:
    """Return the side bar: a toctree for each section of the map, with its words."""
    parts = []
    for section in MAP.read_text("utf-8").split("\n## ")[1:]:
        caption, _, body = section.partition("\n")
        links = re.findall(r"^- \[([^]]+)\]\(([^)]+)\.(?:md|rst)\)", body, re.MULTILINE)
        entries = "".join(f"   {text} <{page}>\n" for text, page in links)
        if entries:
            parts.append(f".. toctree::\n   :caption: {caption}\n   :hidden:\n\n{entries}")
    return "\n".join(parts)


def add_toctrees(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the side bar into the first page (a handler of Sphinx's)."""
    if docname == "index":
        source[0] += f"\n{toctrees()}"
        app.env.note_dependency(str(MAP))


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
    app.connect("source-read", add_toctrees)
    app.add_transform(LinksOutside)
