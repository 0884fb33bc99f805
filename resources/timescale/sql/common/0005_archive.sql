-- Which file of the exchange's archive a day's trades were compared with, one row a version: a file that is issued anew
-- has another checksum. The ids in "taken" have the archive's rows; every other id of the day came off the stream or REST.
CREATE TABLE md.archive_version (
    symbol_id smallint NOT NULL REFERENCES md.symbol,
    day       date NOT NULL,
    version   integer NOT NULL CHECK (version > 0),
    file      text NOT NULL,
    sha256    text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    rows      bigint NOT NULL,
    taken     int8multirange NOT NULL,
    added     int8multirange NOT NULL,
    changed   int8multirange NOT NULL,
    kept      int8multirange NOT NULL,
    withdrawn int8multirange NOT NULL,
    read_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol_id, day, version)
);

-- What websocket, REST and archive say of one day, compared by id.
CREATE TABLE md.trade_reconciliation (
    symbol_id       smallint NOT NULL REFERENCES md.symbol,
    time            timestamptz NOT NULL,
    verdict         text NOT NULL CHECK (verdict IN ('equal', 'differs', 'not_comparable')),
    reason          text NOT NULL,
    websocket_rows  bigint NOT NULL,
    rest_rows       bigint NOT NULL,
    archive_rows    bigint NOT NULL,
    differing_rows  bigint NOT NULL,
    first_differing bigint,
    PRIMARY KEY (symbol_id, time)
);
