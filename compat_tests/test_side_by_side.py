"""Which tests run in one process, and in which order."""

from compat_tests.checkout import ROOT
from compat_tests.side_by_side import LONGEST_FIRST, WARM, scope_of

IN_EXECUTOR = "compat_tests/executor/test_faults.py::test_it"


def test_tests_of_a_directory_with_warm_workers_stay_with_their_broker() -> None:
    other_file = "compat_tests/executor/test_resume.py::test_another"
    assert scope_of(f"{IN_EXECUTOR}[redis]") == scope_of(f"{other_file}[whole-redis]")
    assert scope_of(f"{IN_EXECUTOR}[redis]") != scope_of(f"{IN_EXECUTOR}[embedded]")


def test_other_tests_stay_with_their_file_and_broker() -> None:
    contract = "compat_tests/contract/test_broker.py::test_it"
    assert scope_of(f"{contract}[redis]") == scope_of(f"{contract}[1-redis]")
    assert scope_of(f"{contract}[redis]") != scope_of(f"{contract}[memory]")
    assert scope_of(IN_EXECUTOR) == scope_of(f"{IN_EXECUTOR}[a parameter]")


def test_the_directories_it_names_are_there() -> None:
    assert [each for each in LONGEST_FIRST if not (ROOT / each).is_dir()] == []
    assert [each for each in WARM if not (ROOT / "compat_tests" / each).is_dir()] == []
