ALTER TABLE {schema}.dagster_taskiq_messages
    ADD COLUMN own_task text NOT NULL DEFAULT '',
    ADD COLUMN attempt integer NOT NULL DEFAULT 0;

INSERT INTO {schema}.dagster_taskiq_schema (version) VALUES (4);
