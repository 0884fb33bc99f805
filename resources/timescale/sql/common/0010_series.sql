-- Series of one second: bars, and books as they stood at the end of it.
CREATE TABLE md.candle_1s (
    symbol_id          smallint NOT NULL REFERENCES md.symbol,
    open_time          timestamptz NOT NULL,
    open               float8 NOT NULL,
    high               float8 NOT NULL,
    low                float8 NOT NULL,
    close              float8 NOT NULL,
    volume             float8 NOT NULL,
    quote_volume       float8,
    trade_count        bigint,
    first_agg_trade_id bigint,
    last_agg_trade_id  bigint,
    source             text NOT NULL CHECK (source IN ('trades', 'kline', 'incomplete_trades', 'rollup')),
    complete           boolean NOT NULL,
    n_present          integer NOT NULL,
    n_expected         integer NOT NULL,
    known_at           timestamptz NOT NULL,
    PRIMARY KEY (symbol_id, open_time),
    -- NaN sorts above every number in PostgreSQL, so an upper bound refuses it together with Infinity.
    CONSTRAINT candle_1s_in_range CHECK (
        low > 0 AND low <= open AND low <= close AND high >= open AND high >= close AND high < 'Infinity'
        AND volume >= 0 AND volume < 'Infinity'
    )
);
CREATE TABLE md.candle_1s_revision (LIKE md.candle_1s, superseded_at timestamptz NOT NULL);
CREATE INDEX candle_1s_revision_key ON md.candle_1s_revision (symbol_id, open_time);

-- The best levels of a book after its newest change, as integers, which a columnstore makes small where floats stay as large as they
-- are: the best price of a side in ticks, the steps from there to each further price, and lots. A row says in how many decimals it
-- counts.
CREATE TABLE md.book (
    symbol_id         smallint NOT NULL REFERENCES md.symbol,
    time              timestamptz NOT NULL,
    last_update_id    bigint NOT NULL,
    price_decimals    integer NOT NULL CHECK (price_decimals BETWEEN 0 AND 12),
    quantity_decimals integer NOT NULL CHECK (quantity_decimals BETWEEN 0 AND 12),
    best_bid          bigint CHECK (best_bid > 0),
    best_ask          bigint CHECK (best_ask > 0),
    bid_steps         bigint[] NOT NULL,
    bid_lots          bigint[] NOT NULL,
    ask_steps         bigint[] NOT NULL,
    ask_lots          bigint[] NOT NULL,
    known_at          timestamptz NOT NULL,
    PRIMARY KEY (symbol_id, time),
    CONSTRAINT book_in_step CHECK (
        cardinality(bid_lots) = CASE WHEN best_bid IS NULL THEN 0 ELSE cardinality(bid_steps) + 1 END
        AND cardinality(ask_lots) = CASE WHEN best_ask IS NULL THEN 0 ELSE cardinality(ask_steps) + 1 END
    ),
    CONSTRAINT book_not_crossed CHECK ((best_bid < best_ask) IS NOT FALSE)
);
CREATE TABLE md.book_revision (LIKE md.book, superseded_at timestamptz NOT NULL);
CREATE INDEX book_revision_key ON md.book_revision (symbol_id, time);

-- A row for each second at whose end the book is known; `snapshots` is 0 where it stands unchanged from before. As `md.book` the
-- row counts in ticks and lots: the spread is the best ask less the best bid, or the best ask itself where nobody bids, and
-- null where nobody asks; lots are of the best 1, 5 and 20 levels.
CREATE TABLE md.book_second (
    symbol_id         smallint NOT NULL REFERENCES md.symbol,
    time              timestamptz NOT NULL,
    price_decimals    integer NOT NULL CHECK (price_decimals BETWEEN 0 AND 12),
    quantity_decimals integer NOT NULL CHECK (quantity_decimals BETWEEN 0 AND 12),
    best_bid          bigint CHECK (best_bid > 0),
    spread            bigint,
    bid_lots_1        bigint NOT NULL,
    bid_lots_5        bigint NOT NULL,
    bid_lots_20       bigint NOT NULL,
    ask_lots_1        bigint NOT NULL,
    ask_lots_5        bigint NOT NULL,
    ask_lots_20       bigint NOT NULL,
    snapshots         integer NOT NULL CHECK (snapshots >= 0),
    known_at          timestamptz NOT NULL,
    PRIMARY KEY (symbol_id, time),
    CONSTRAINT book_second_not_crossed CHECK (spread > 0),
    CONSTRAINT book_second_in_order CHECK (
        0 <= bid_lots_1 AND bid_lots_1 <= bid_lots_5 AND bid_lots_5 <= bid_lots_20
        AND 0 <= ask_lots_1 AND ask_lots_1 <= ask_lots_5 AND ask_lots_5 <= ask_lots_20
    )
);
CREATE TABLE md.book_second_revision (LIKE md.book_second, superseded_at timestamptz NOT NULL);
CREATE INDEX book_second_revision_key ON md.book_second_revision (symbol_id, time);
