-- What the collectors' journals claim of the ids of a symbol, and what they lack. A range of state `complete` came off
-- the stream but for the ids that a row of origin `rest` or `archive` names; `nowhere` holds what is missing.
CREATE TABLE md.trade_range (
    symbol_id  smallint NOT NULL REFERENCES md.symbol,
    first_id   bigint NOT NULL,
    last_id    bigint NOT NULL CHECK (last_id >= first_id),
    state      text NOT NULL CHECK (state IN ('complete', 'repairing', 'absent')),
    origin     text NOT NULL CHECK (origin IN ('websocket', 'rest', 'archive', 'nowhere')),
    from_time  timestamptz NOT NULL,
    until_time timestamptz NOT NULL CHECK (until_time >= from_time),
    PRIMARY KEY (symbol_id, origin, first_id),
    CHECK ((state = 'complete') = (origin <> 'nowhere'))
);

-- Why ids are missing, in words; a gap that a note covers is explained.
CREATE TABLE md.gap_note (
    symbol_id smallint NOT NULL REFERENCES md.symbol,
    first_id  bigint NOT NULL,
    last_id   bigint NOT NULL CHECK (last_id >= first_id),
    note      text NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol_id, first_id, last_id)
);

-- Of an asset's rows in a day, those that lack nothing; null where its rows do not say.
ALTER TABLE md.day ADD COLUMN complete bigint;
