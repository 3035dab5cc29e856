"""A plan of real work with pandas, which takes a while and memory to import."""

import pandas as pd
from dagster import op

#: Rows of the table: enough for the steps to take longer than what is around them.
ROWS = 1_000_000
#: Stations they come from.
STATIONS = 1_000


@op
def measurements() -> pd.DataFrame:
    numbers = pd.Series(range(ROWS))
    return pd.DataFrame(
        {
            "station": numbers * 7919 % STATIONS,
            "hour": numbers % 24,
            "value": (numbers * 31 % 1009).astype(float),
        }
    )


@op
def means(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby(["station", "hour"], as_index=False)["value"].mean()


@op
def medians(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby(["station", "hour"], as_index=False)["value"].median()


@op
def skew(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    both = left.merge(right, on=["station", "hour"], suffixes=("_mean", "_median"))
    both["skew"] = both["value_mean"] - both["value_median"]
    return both.sort_values("skew").head(STATIONS)


def diamond() -> None:
    """Compose one table, two ways to sum it up, and their comparison."""
    table = measurements()
    skew(means(table), medians(table))
