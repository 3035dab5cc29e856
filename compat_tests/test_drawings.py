"""The drawings of docs/: they are those of the script, and their numbers those of the page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.checkout import ROOT

IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "explanation" / "how-it-works.md"
DRAWINGS = ("step-life", "lost-worker")


def numbers_in(drawing: str) -> list[str]:
    return re.findall(r'class="digits"[^>]*>(\d+)<', (IMAGES / f"{drawing}.svg").read_text())


def test_the_drawings_are_those_of_the_script(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "draw_sequences.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    drawn = {each.stem: each.read_text() for each in tmp_path.iterdir()}
    assert sorted(drawn) == sorted(DRAWINGS)
    for name, text in drawn.items():
        assert (IMAGES / f"{name}.svg").read_text() == text, f"Run: python {script}"


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_each_number_of_a_drawing_is_explained_below_it(drawing: str) -> None:
    below = PAGE.read_text().split(f"{drawing}.svg)", 1)[1]
    explained = re.findall(r"^(\d+)\. ", below.partition("\n## ")[0], re.MULTILINE)
    assert numbers_in(drawing) == explained
    assert len(explained) > 5
