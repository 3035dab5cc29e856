"""A stand-in for dagster-celery keeps the published one away, whoever installs.

Libraries require ``dagster-celery==RELEASE``. With the wheel of ``dagster-taskiq stand-in``, pip,
uv and Poetry leave this project's package ``dagster_celery`` as it is, however they are called.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.facade.installing import UV, Place, make_dist, new_place, run, wheel
from dagster_taskiq.distribution.releases import NEWEST, SUPPORTED
from dagster_taskiq.distribution.stand_in import write_stand_in

_test_all = pytest.mark.test_all

STANDS_IN = f"{NEWEST}+taskiq"
LIBRARY = "dagster-celery-k8s"

#: Prints whose the package is.
WHOSE = "import dagster_celery; print(dagster_celery.OF)"


@dataclass(frozen=True)
class Index:
    """Distributions of the names that matter, without what they require in truth."""

    wheels: Path
    stand_in: Path

    @property
    def options(self) -> tuple[str, ...]:
        """What has pip and uv look here alone, where the published release is, too."""
        return ("--no-index", "--find-links", str(self.wheels))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    directory = tmp_path_factory.mktemp("index")
    wheels = directory / "wheels"

    def package(of: str) -> dict[str, str]:
        return {"dagster_celery/__init__.py": f'OF = "{of}"\n'}

    wheel(wheels, "dagster-taskiq", "0.1.0", files=package("ours"))
    wheel(wheels, "dagster-celery", NEWEST, files=package("Celery's"))
    wheel(wheels, LIBRARY, NEWEST, [f"dagster-celery=={NEWEST}"])
    return Index(wheels, write_stand_in(NEWEST, directory / "stand-ins"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path / "place")


def assert_ours(place: Place) -> None:
    assert place.run(WHOSE).stdout == "ours\n"
    found = place.installed()
    assert {name: found[name] for name in ("dagster-celery", LIBRARY)} == {
        "dagster-celery": STANDS_IN,
        LIBRARY: NEWEST,
    }
    assert place.pip("check").stdout == "No broken requirements found.\n"


def in_one_command(install: Callable[..., object], index: Index) -> None:
    where = ("--find-links", str(index.stand_in.parent))
    install(*index.options, *where, "dagster-taskiq", LIBRARY)


def file_by_file(install: Callable[..., object], index: Index) -> None:
    """The library comes long after it, from where the stand-in is not."""
    install(*index.options, "dagster-taskiq", str(index.stand_in))
    install(*index.options, LIBRARY)


def by_requirements(install: Callable[..., object], index: Index) -> None:
    file = index.stand_in.with_name("requirements.txt")
    file.write_text(f"dagster-taskiq\n./{index.stand_in.name}\n{LIBRARY}=={NEWEST}\n")
    install(*index.options, "-r", file.name, directory=file.parent)


def by_constraints(install: Callable[..., object], index: Index) -> None:
    file = index.stand_in.with_name("constraints.txt")
    file.write_text(f"dagster-celery @ {index.stand_in.as_uri()}\n")
    install(*index.options, "-c", str(file), "dagster-taskiq", LIBRARY)


def by_hashes(install: Callable[..., object], index: Index) -> None:
    file = index.stand_in.with_name("hashed.txt")
    wanted = {
        "dagster-taskiq==0.1.0": next(index.wheels.glob("dagster_taskiq-*")),
        f"dagster-celery=={STANDS_IN}": index.stand_in,
        f"{LIBRARY}=={NEWEST}": next(index.wheels.glob("dagster_celery_k8s-*")),
    }
    lines = [f"{name} --hash=sha256:{digest_of(path)}" for name, path in wanted.items()]
    file.write_text("\n".join(lines) + "\n")
    where = ("--find-links", str(index.stand_in.parent))
    install(*index.options, *where, "--require-hashes", "-r", str(file))


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


WAYS = [
    pytest.param(in_one_command, id="in one command"),
    *(
        pytest.param(way, marks=_test_all("the same requirements, given otherwise"), id=name)
        for name, way in {
            "file by file": file_by_file,
            "requirements": by_requirements,
            "constraints": by_constraints,
            "hashes": by_hashes,
        }.items()
    ),
]


@pytest.mark.parametrize("way", WAYS)
def test_with_pip_a_library_finds_the_stand_in(
    way: Callable[..., None], place: Place, index: Index
) -> None:
    def install(*arguments: str, directory: Path | None = None) -> None:
        place.pip("install", "--quiet", *arguments, directory=directory)

    way(install, index)
    assert_ours(place)


@pytest.mark.parametrize("way", WAYS)
def test_with_uv_a_library_finds_the_stand_in(
    way: Callable[..., None], place: Place, index: Index
) -> None:
    def install(*arguments: str, directory: Path | None = None) -> None:
        place.uv("install", "--quiet", *arguments, directory=directory)

    way(install, index)
    assert_ours(place)


@_test_all("what goes wrong without it")
def test_without_it_the_original_replaces_the_package_silently(place: Place, index: Index) -> None:
    place.pip("install", *index.options, "dagster-taskiq")
    assert place.run(WHOSE).stdout == "ours\n"
    done = place.pip("install", *index.options, LIBRARY)
    assert place.run(WHOSE).stdout == "Celery's\n"
    assert "dagster_celery" not in done.stderr


@_test_all("the way in of the migration guide, one step of many")
def test_where_the_original_was_removed_first_nothing_of_it_is_left(
    place: Place, index: Index
) -> None:
    place.pip("install", "--quiet", *index.options, LIBRARY)
    place.pip("uninstall", "--quiet", "-y", "dagster-celery")
    options = (*index.options, "--find-links", str(index.stand_in.parent))
    place.pip("install", "--quiet", *options, "dagster-taskiq", f"dagster-celery=={STANDS_IN}")
    assert_ours(place)


@_test_all("what the guide warns of")
def test_pip_removes_our_files_with_an_original_that_is_still_there(
    place: Place, index: Index
) -> None:
    """So the guide says to remove it first. test_both_installed.py has what an import then says."""
    place.pip("install", "--quiet", *index.options, LIBRARY)
    options = (*index.options, "--find-links", str(index.stand_in.parent))
    place.pip("install", "--quiet", *options, "dagster-taskiq", f"dagster-celery=={STANDS_IN}")
    assert place.run(WHOSE, check=False).returncode != 0
    place.pip("install", "--quiet", *options, "--force-reinstall", "--no-deps", "dagster-taskiq")
    assert_ours(place)


PROJECT = """
[project]
name = "shop"
version = "1"
requires-python = ">=3.10"
dependencies = ["dagster-taskiq", "dagster-celery", "dagster-celery-k8s"]
"""


@pytest.mark.parametrize(
    "setting",
    [
        '[tool.uv.sources]\ndagster-celery = {{ path = "{file}" }}',
        '[tool.uv]\noverride-dependencies = ["dagster-celery @ {uri}"]',
        '[tool.uv]\nfind-links = ["{directory}"]',
    ],
    ids=["source", "override", "find-links"],
)
@_test_all("the requirements of the tests with uv pip, given otherwise")
def test_a_project_of_uv_names_the_stand_in(setting: str, tmp_path: Path, index: Index) -> None:
    names = {"file": str(index.stand_in), "uri": index.stand_in.as_uri()}
    text = setting.format(**names, directory=index.stand_in.parent)
    (tmp_path / "pyproject.toml").write_text(f"{PROJECT}\n{text}\n")
    run(UV, "sync", "--quiet", *index.options, directory=tmp_path)
    assert_ours(Place(tmp_path / ".venv"))


@_test_all("the same for those who have no stand-in, as the guide has it")
def test_a_project_of_uv_may_say_that_it_is_never_needed(tmp_path: Path, index: Index) -> None:
    project = PROJECT.replace('"dagster-celery", ', "")
    never = "override-dependencies = [\"dagster-celery; sys_platform == 'never'\"]"
    (tmp_path / "pyproject.toml").write_text(f"{project}\n[tool.uv]\n{never}\n")
    run(UV, "sync", "--quiet", *index.options, directory=tmp_path)
    place = Place(tmp_path / ".venv")
    assert place.run(WHOSE).stdout == "ours\n"
    assert "dagster-celery" not in place.installed()


@pytest.fixture(scope="module")
def poetry(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = new_place(tmp_path_factory.mktemp("poetry") / "place")
    place.uv("install", "--quiet", "poetry>=2,<3")
    return str(place.directory / "bin" / "poetry")


#: An index by its address, as those have it who keep one. Poetry asks PyPI, if none is named, by
#: an interface that other indexes and most proxies do not have.
POETRYS_INDEX = """
[[tool.poetry.source]]
name = "index"
url = "https://pypi.org/simple/"
priority = "primary"
"""


def write_project_of_poetry(directory: Path, given: dict[str, str], source: str = "") -> None:
    """Write a ``pyproject.toml``.

    Args:
        directory: where.
        given: what is required, as TOML, by name.
        source: more of the file.
    """
    lines = [f"{name} = {value}" for name, value in {"python": '">=3.10,<3.14"', **given}.items()]
    head = f"[tool.poetry]\npackage-mode = false\n{source}\n[tool.poetry.dependencies]\n"
    (directory / "pyproject.toml").write_text(head + "\n".join(lines) + "\n")


@_test_all("it has Poetry fetched from PyPI")
@pytest.mark.timeout(600)
def test_with_poetry_a_library_finds_the_stand_in(
    poetry: str, tmp_path: Path, index: Index
) -> None:
    files = {path.name.partition("-")[0]: path for path in index.wheels.iterdir()}
    sources = {
        "dagster-taskiq": files["dagster_taskiq"],
        "dagster-celery": index.stand_in,
        LIBRARY: files["dagster_celery_k8s"],
    }
    given = {name: f'{{ path = "{path}" }}' for name, path in sources.items()}
    write_project_of_poetry(tmp_path, given)
    run(poetry, "install", "--no-interaction", directory=tmp_path)
    assert_ours(Place(tmp_path / ".venv"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make dist`` makes."""
    directory = tmp_path_factory.mktemp("published") / "dist"
    make_dist(directory)
    return directory


LIBRARIES = ("dagster-celery-docker", "dagster-celery-k8s")

#: Imports the app of each library, and prints what has been imported.
USE = """
import sys
import dagster_celery_docker.app, dagster_celery_k8s.app, dagster_celery
print(type(dagster_celery_k8s.app.app).__module__, "celery" in sys.modules)
"""


def assert_serves(place: Place, release: str) -> None:
    found = place.installed()
    assert found["dagster-celery"] == f"{release}+taskiq"
    assert {found[name] for name in LIBRARIES} == {release}
    assert "celery" not in found
    done = place.run(f"import warnings; warnings.simplefilter('error', UserWarning){USE}")
    assert done.stdout == "dagster_celery._celery_app.app False\n"
    commands = run(str(place.directory / "bin" / "dagster-celery"), "worker", "start", "--help")
    assert "--config-yaml" in commands.stdout


@pytest.mark.parametrize("release", [SUPPORTED[0], SUPPORTED[-1]])
@_test_all("it installs some eighty packages")
@pytest.mark.timeout(900)
def test_uv_installs_the_published_libraries_beside_ours(
    release: str, published: Path, place: Place
) -> None:
    libraries = [f"{name}=={release}" for name in LIBRARIES]
    where = ("--find-links", str(published))
    place.uv("install", "--quiet", *where, "dagster-taskiq", *libraries)
    place.uv("check")
    assert_serves(place, release)


@pytest.fixture(scope="module")
def third_parties(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the libraries need, made once, without them and this project."""
    directory = tmp_path_factory.mktemp("third-parties")
    libraries = [f"{name}=={NEWEST}" for name in LIBRARIES]
    options = ("--quiet", "--python", UV.removesuffix("uv") + "python")
    where = ("--find-links", str(published), "--target", str(directory))
    run(UV, "pip", "install", *options, *where, "dagster-taskiq", *libraries)
    for path in [*directory.glob("dagster_celery*"), *directory.glob("dagster_taskiq*")]:
        shutil.rmtree(path)
    return directory


@_test_all("it installs some eighty packages")
@pytest.mark.timeout(900)
def test_pip_installs_the_published_libraries_beside_ours(
    published: Path, third_parties: Path, tmp_path: Path
) -> None:
    place = new_place(tmp_path / "place", also=third_parties)
    libraries = [f"{name}=={NEWEST}" for name in LIBRARIES]
    where = ("--find-links", str(published))
    place.pip("install", "--quiet", "--no-compile", *where, "dagster-taskiq", *libraries)
    assert place.pip("check").stdout == "No broken requirements found.\n"
    assert_serves(place, NEWEST)
    # Later, and by somebody who knows nothing of it.
    place.pip("install", "--quiet", "--no-compile", "dagster-celery", *LIBRARIES)
    assert_serves(place, NEWEST)


@_test_all("it installs some eighty packages")
@pytest.mark.timeout(900)
def test_what_the_warning_says_repairs_an_original_that_came_back(
    published: Path, third_parties: Path, tmp_path: Path
) -> None:
    place = new_place(tmp_path / "place", also=third_parties)
    where = ("--quiet", "--no-compile", "--find-links", str(published))
    place.pip("install", *where, "dagster-taskiq")
    # What the next installation of a library does, without its other requirements.
    place.pip("install", "--quiet", "--no-deps", f"dagster-celery=={NEWEST}", *LIBRARIES)

    said = place.run("import dagster_taskiq").stderr
    assert "is not the package of dagster-taskiq, but of Celery's dagster-celery" in said
    commands = [line.split() for line in said.splitlines() if line.startswith("    ")]
    assert [command[0] for command in commands] == ["pip", "pip", "dagster-taskiq", "pip"]
    for name, *arguments in commands:
        if name == "pip":
            more = where if "--force-reinstall" in arguments else ()
            place.pip(*arguments, *more, directory=tmp_path)
        else:
            run(str(place.directory / "bin" / name), *arguments, directory=tmp_path)

    assert place.run("import dagster_taskiq, dagster_celery").stderr == ""
    assert_serves(place, NEWEST)


@_test_all("it has Poetry resolve some eighty packages")
@pytest.mark.timeout(900)
def test_poetry_resolves_the_published_libraries_with_the_stand_in(
    poetry: str, published: Path, tmp_path: Path
) -> None:
    (ours,) = published.glob("dagster_taskiq-*.whl")
    stand_in = published / f"dagster_celery-{NEWEST}+taskiq-py3-none-any.whl"
    given = {
        "dagster-taskiq": f'{{ path = "{ours}" }}',
        "dagster-celery": f'{{ path = "{stand_in}" }}',
        **dict.fromkeys(LIBRARIES, f'"{NEWEST}"'),
    }
    write_project_of_poetry(tmp_path, given, source=POETRYS_INDEX)
    run(poetry, "lock", "--no-interaction", directory=tmp_path)
    lock = (tmp_path / "poetry.lock").read_text()
    assert f'version = "{STANDS_IN}"' in lock
    assert '\nname = "celery"\n' not in lock
