"""How the published suites are started beside others, and what is said of them at the end."""

from pytest import ExitCode, TerminalReporter, hookimpl

pytest_plugins = ["compat_tests.tiers", "compat_tests.side_by_side"]

#: What a test says of a whole suite, for the summary; it passes between processes of pytest-xdist.
REMARK = "remark on the original suite"


@hookimpl
def pytest_terminal_summary(terminalreporter: TerminalReporter, exitstatus: ExitCode) -> None:
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    remarks = [text for each in reports for name, text in each.user_properties if name == REMARK]
    if remarks:
        terminalreporter.section("the suites of dagster-celery and of libraries on it")
        for remark in remarks:
            terminalreporter.write_line(remark)
