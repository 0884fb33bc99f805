-- What one asset wrote for one symbol and day: rows and an order-free digest of them. A row that is dropped, changed
-- or moved afterwards makes the day differ from its record.
CREATE TABLE md.day (
    symbol_id smallint NOT NULL REFERENCES md.symbol,
    asset     text NOT NULL,
    day       date NOT NULL,
    rows      bigint NOT NULL,
    digest    text NOT NULL,
    PRIMARY KEY (symbol_id, asset, day)
);
