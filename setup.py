"""The README as a package index shows it: all links are absolute, which pyproject.toml cannot say.

They lead to the files of this release: to the tag that it is made from.
"""

import re
import runpy
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
REPOSITORY = "dagster-taskiq/dagster-taskiq"


def with_absolute_links(text: str, tag: str) -> str:
    """Return Markdown whose links to files of the repository lead to GitHub, at a tag."""

    def absolute(link: "re.Match[str]") -> str:
        mark, label, path = link.groups()
        pages = f"https://github.com/{REPOSITORY}/blob/{tag}"
        files = f"https://raw.githubusercontent.com/{REPOSITORY}/{tag}"
        return f"{mark}[{label}]({files if mark else pages}/{path})"

    return re.sub(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)]*)\)", absolute, text)


version = runpy.run_path(str(HERE / "dagster_taskiq" / "version.py"))["__version__"]
setup(
    long_description=with_absolute_links((HERE / "README.md").read_text("utf-8"), f"v{version}"),
    long_description_content_type="text/markdown",
)
