-- What was measured of this database: one value of one thing at a moment of its server's clock.
CREATE TABLE md.monitor (
    monitor text NOT NULL,
    name    text NOT NULL,
    time    timestamptz NOT NULL DEFAULT now(),
    value   float8 NOT NULL,
    PRIMARY KEY (monitor, name, time)
);
