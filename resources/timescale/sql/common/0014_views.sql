-- One way to ask for bars on either backend: a stored bar, and where none is stored the database's own roll-up of the 1m bars.
-- Conditions on symbol and time reach both sides of a union that DISTINCT ON makes a choice of; an anti-join's inner side, which
-- gets none on the time, would be read from the first bar on.
CREATE VIEW md.ohlcv_1s AS
SELECT symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count, first_agg_trade_id, last_agg_trade_id,
    source, complete, n_present, n_expected, known_at
FROM md.candle_1s;

CREATE VIEW md.ohlcv_1m AS
SELECT symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count, first_agg_trade_id, last_agg_trade_id,
    source, complete, n_present, n_expected, known_at
FROM md.candle WHERE timeframe = '1m';

DO $each$
DECLARE timeframe text;
BEGIN
    FOREACH timeframe IN ARRAY ARRAY['3m', '5m', '15m', '1h', '4h', '1d'] LOOP
        EXECUTE format($view$
        CREATE VIEW md.ohlcv_%1$s AS
        SELECT DISTINCT ON (symbol_id, open_time) symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count,
            first_agg_trade_id, last_agg_trade_id, source, complete, n_present, n_expected, known_at
        FROM (
            SELECT 1 AS choice, c.* FROM md.candle AS c WHERE timeframe = '%1$s'
            UNION ALL
            SELECT 2, symbol_id, '%1$s', open_time, open, high, low, close, volume, quote_volume, trade_count, first_agg_trade_id,
                last_agg_trade_id, 'rollup', n_present = n_expected, n_present, n_expected, known_at
            FROM md.rolled_up_%1$s
        ) AS bar
        ORDER BY symbol_id, open_time, choice
        $view$, timeframe);
    END LOOP;
END $each$;

-- The seconds of books as floats, and what follows from them: volumes of the best 1, 5 and 20 levels in the base coin, imbalances
-- (bids - asks) / (bids + asks) over as many. Integers are divided at the end, as the program does it.
DO $each$
DECLARE revised text;
BEGIN
    FOREACH revised IN ARRAY ARRAY['', '_revision'] LOOP
        EXECUTE format($view$
        CREATE VIEW md.book_1s%1$s AS
        SELECT symbol_id, time, best_bid::float8 / 10::float8 ^ price_decimals AS best_bid,
            (coalesce(best_bid, 0) + spread)::float8 / 10::float8 ^ price_decimals AS best_ask,
            bid_lots_1::float8 / 10::float8 ^ quantity_decimals AS bid_volume_1,
            bid_lots_5::float8 / 10::float8 ^ quantity_decimals AS bid_volume_5,
            bid_lots_20::float8 / 10::float8 ^ quantity_decimals AS bid_volume,
            ask_lots_1::float8 / 10::float8 ^ quantity_decimals AS ask_volume_1,
            ask_lots_5::float8 / 10::float8 ^ quantity_decimals AS ask_volume_5,
            ask_lots_20::float8 / 10::float8 ^ quantity_decimals AS ask_volume,
            (2 * best_bid + spread)::float8 / 10::float8 ^ price_decimals / 2 AS mid_price,
            10000 * spread::float8 / best_bid AS spread_bps,
            CASE WHEN best_bid IS NOT NULL AND spread IS NOT NULL
                THEN (bid_lots_1 - ask_lots_1)::float8 / nullif(bid_lots_1 + ask_lots_1, 0) END AS imbalance_1,
            CASE WHEN best_bid IS NOT NULL AND spread IS NOT NULL
                THEN (bid_lots_5 - ask_lots_5)::float8 / nullif(bid_lots_5 + ask_lots_5, 0) END AS imbalance_5,
            CASE WHEN best_bid IS NOT NULL AND spread IS NOT NULL
                THEN (bid_lots_20 - ask_lots_20)::float8 / nullif(bid_lots_20 + ask_lots_20, 0) END AS imbalance_20,
            snapshots, known_at%2$s
        FROM md.book_second%1$s
        $view$, revised, CASE WHEN revised <> '' THEN ', superseded_at' ELSE '' END);
    END LOOP;
END $each$;

-- Means over the seconds at whose end the book is known, in their order, so that both backends round alike; the last mid price.
CREATE VIEW md.book_1m AS
SELECT symbol_id, date_bin('1 minute', time, 'epoch') AS time, count(*)::integer AS seconds,
    avg(spread_bps ORDER BY time) AS spread_bps, avg(imbalance_1 ORDER BY time) AS imbalance_1,
    avg(imbalance_5 ORDER BY time) AS imbalance_5, avg(imbalance_20 ORDER BY time) AS imbalance_20,
    (array_agg(mid_price ORDER BY time))[count(*)] AS mid_price, sum(snapshots)::integer AS snapshots,
    max(known_at) AS known_at
FROM md.book_1s GROUP BY symbol_id, date_bin('1 minute', time, 'epoch');

-- The levels of books as floats, best first, price and quantity in step.
CREATE FUNCTION md.prices(best bigint, steps bigint[], decimals integer) RETURNS float8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN best IS NULL THEN '{}' ELSE ARRAY(
        SELECT (best + sum(step) OVER (ORDER BY level))::float8 / 10::float8 ^ decimals
        FROM unnest(0 || steps) WITH ORDINALITY AS s(step, level) ORDER BY level
    ) END
$$;
CREATE FUNCTION md.quantities(lots bigint[], decimals integer) RETURNS float8[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY(SELECT lot / 10::float8 ^ decimals FROM unnest(lots) WITH ORDINALITY AS l(lot, level) ORDER BY level)
$$;

CREATE VIEW md.book_snapshot AS
SELECT symbol_id, time, last_update_id, md.prices(best_bid, bid_steps, price_decimals) AS bid_price,
    md.quantities(bid_lots, quantity_decimals) AS bid_quantity, md.prices(best_ask, ask_steps, price_decimals) AS ask_price,
    md.quantities(ask_lots, quantity_decimals) AS ask_quantity, known_at
FROM md.book;
CREATE VIEW md.book_snapshot_revision AS
SELECT symbol_id, time, last_update_id, md.prices(best_bid, bid_steps, price_decimals) AS bid_price,
    md.quantities(bid_lots, quantity_decimals) AS bid_quantity, md.prices(best_ask, ask_steps, price_decimals) AS ask_price,
    md.quantities(ask_lots, quantity_decimals) AS ask_quantity, known_at, superseded_at
FROM md.book_revision;
