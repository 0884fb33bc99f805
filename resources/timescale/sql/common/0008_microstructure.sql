-- What trades and books say of a market, by minute and by day. Unknown is null, never 0; times are when a minute or day begins.

-- What traded in one minute at each price: lists in step, by rising tick. Any minutes merge, exactly, into one profile.
CREATE TABLE md.profile_minute (
    symbol_id   smallint NOT NULL REFERENCES md.symbol,
    minute      timestamptz NOT NULL,
    tick        bigint[] NOT NULL,
    buy_lots    bigint[] NOT NULL,
    sell_lots   bigint[] NOT NULL,
    trade_count bigint[] NOT NULL,
    PRIMARY KEY (symbol_id, minute)
);

-- A day with too few trades has its count and, in `missing`, the reason why there is no profile.
CREATE TABLE md.volume_profile (
    symbol_id        smallint NOT NULL REFERENCES md.symbol,
    day              timestamptz NOT NULL,
    trade_count      bigint NOT NULL,
    proven_share     float8 NOT NULL CHECK (proven_share BETWEEN 0 AND 1),
    missing          text,
    price_low        float8,
    price_high       float8,
    bin_size         float8,
    point_of_control float8,
    value_area_low   float8,
    value_area_high  float8,
    value_area_pct   float8,
    total_volume     float8,
    bin_low          float8[],
    bin_buy_volume   float8[],
    bin_sell_volume  float8[],
    bin_trade_count  bigint[],
    PRIMARY KEY (symbol_id, day),
    CHECK ((missing IS NULL) = (point_of_control IS NOT NULL))
);

-- Stops are those of a position whose nearest vacuum on the losing side this is.
CREATE TABLE md.liquidity_vacuum (
    symbol_id       smallint NOT NULL REFERENCES md.symbol,
    day             timestamptz NOT NULL,
    price_low       float8 NOT NULL,
    price_high      float8 NOT NULL,
    actual_volume   float8 NOT NULL,
    median_volume   float8 NOT NULL,
    deficit_pct     float8 NOT NULL,
    severity        text NOT NULL,
    expected_impact text NOT NULL,
    stop_long       float8 NOT NULL,
    stop_short      float8 NOT NULL,
    PRIMARY KEY (symbol_id, day, price_low)
);

-- `close` is that of the minute's candle, null while there is none.
CREATE TABLE md.order_flow (
    symbol_id        smallint NOT NULL REFERENCES md.symbol,
    minute           timestamptz NOT NULL,
    trade_count      bigint NOT NULL,
    buy_volume       float8 NOT NULL,
    sell_volume      float8 NOT NULL,
    delta            float8 NOT NULL,
    cumulative_delta float8 NOT NULL,
    close            float8,
    PRIMARY KEY (symbol_id, minute)
);

-- Spread, imbalance and volumes are means over the `seconds` that are known; prices and slippage are of the last book.
CREATE TABLE md.order_book (
    symbol_id      smallint NOT NULL REFERENCES md.symbol,
    minute         timestamptz NOT NULL,
    seconds        bigint NOT NULL,
    spread_bps     float8,
    spread_bps_max float8,
    imbalance      float8,
    bid_volume     float8,
    ask_volume     float8,
    best_bid       float8,
    best_ask       float8,
    mid_price      float8,
    microprice     float8,
    buy_10k_bps    float8,
    sell_10k_bps   float8,
    buy_25k_bps    float8,
    sell_25k_bps   float8,
    buy_50k_bps    float8,
    sell_50k_bps   float8,
    PRIMARY KEY (symbol_id, minute)
);

CREATE TABLE md.market_report (
    symbol_id      smallint NOT NULL REFERENCES md.symbol,
    day            timestamptz NOT NULL,
    as_of_ms       bigint NOT NULL,
    sections_known bigint NOT NULL,
    markdown       text NOT NULL,
    PRIMARY KEY (symbol_id, day)
);
