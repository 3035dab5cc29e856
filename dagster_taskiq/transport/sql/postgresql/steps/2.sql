-- A constant default is no change of the rows that are there.
ALTER TABLE {schema}.dagster_taskiq_tasks
    ADD COLUMN attempt integer NOT NULL DEFAULT 0,
    ADD COLUMN progress bytea;

INSERT INTO {schema}.dagster_taskiq_schema (version) VALUES (2);
