-- The market's facts and what is derived from them. Times are UTC; a bar is keyed by its open time.
CREATE SCHEMA IF NOT EXISTS md;

CREATE TABLE md.symbol (
    symbol_id         smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue             text NOT NULL,
    name              text NOT NULL,
    base              text NOT NULL,
    quote             text NOT NULL,
    kind              text NOT NULL,
    price_decimals    smallint NOT NULL CHECK (price_decimals BETWEEN 0 AND 12),
    quantity_decimals smallint NOT NULL CHECK (quantity_decimals BETWEEN 0 AND 12),
    UNIQUE (venue, name)
);

-- Prices are ticks and quantities lots of the symbol, so that sums are exact.
CREATE TABLE md.trade (
    symbol_id      smallint NOT NULL REFERENCES md.symbol,
    agg_trade_id   bigint NOT NULL CHECK (agg_trade_id >= 0),
    price          bigint NOT NULL CHECK (price > 0),
    quantity       bigint NOT NULL CHECK (quantity >= 0),
    first_trade_id bigint NOT NULL,
    last_trade_id  bigint NOT NULL CHECK (last_trade_id >= first_trade_id),
    time           timestamptz NOT NULL,
    buyer_is_maker boolean NOT NULL,
    PRIMARY KEY (symbol_id, agg_trade_id)
);
CREATE INDEX trade_time ON md.trade (symbol_id, time);

-- Ranges of consecutive ids that are held, and the exchange time that each of them proves.
CREATE TABLE md.trade_coverage (
    symbol_id    smallint NOT NULL REFERENCES md.symbol,
    first_id     bigint NOT NULL,
    last_id      bigint NOT NULL CHECK (last_id >= first_id),
    proven_from  timestamptz NOT NULL,
    proven_until timestamptz NOT NULL,
    PRIMARY KEY (symbol_id, first_id)
);

CREATE TABLE md.candle (
    symbol_id          smallint NOT NULL REFERENCES md.symbol,
    timeframe          text NOT NULL,
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
    PRIMARY KEY (symbol_id, timeframe, open_time),
    -- NaN sorts above every number in PostgreSQL, so an upper bound refuses it together with Infinity.
    CONSTRAINT candle_in_range CHECK (
        low > 0 AND low <= open AND low <= close AND high >= open AND high >= close AND high < 'Infinity'
        AND volume >= 0 AND volume < 'Infinity'
    )
);

CREATE TABLE md.indicator (
    symbol_id   smallint NOT NULL REFERENCES md.symbol,
    timeframe   text NOT NULL,
    open_time   timestamptz NOT NULL,
    ema_20      float8,
    ema_50      float8,
    ema_200     float8,
    macd        float8,
    macd_signal float8,
    macd_hist   float8,
    rsi_7       float8,
    rsi_14      float8,
    atr_3       float8,
    atr_14      float8,
    warm        boolean NOT NULL,
    PRIMARY KEY (symbol_id, timeframe, open_time)
);
