CREATE TABLE {schema}.dagster_taskiq_schedules (
    prefix text NOT NULL,
    id text NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (prefix, id)
);

CREATE TABLE {schema}.dagster_taskiq_firings (
    prefix text NOT NULL,
    schedule text NOT NULL,
    due double precision NOT NULL,
    claimant text NOT NULL,
    claimed_at double precision NOT NULL,
    is_sent boolean NOT NULL,
    forget_at double precision NOT NULL,
    PRIMARY KEY (prefix, schedule)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500
);
CREATE INDEX dagster_taskiq_firings_forget
    ON {schema}.dagster_taskiq_firings (forget_at) WHERE forget_at > 0;

INSERT INTO {schema}.dagster_taskiq_schema (version) VALUES (3);
