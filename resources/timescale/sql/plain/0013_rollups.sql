-- Bars made of the complete and incomplete 1m bars below them, up the tree 1m -> {3m, 5m}, 5m -> 15m -> 1h -> 4h -> 1d. Volumes
-- are summed as numeric, so that a sum does not depend on its order; what is unknown of a part is unknown of the whole.
CREATE TABLE md.candle_rollup (
    symbol_id          smallint NOT NULL,
    timeframe          text NOT NULL,
    open_time          timestamptz NOT NULL,
    open               float8 NOT NULL,
    high               float8 NOT NULL,
    low                float8 NOT NULL,
    close              float8 NOT NULL,
    volume             numeric NOT NULL,
    quote_volume       numeric,
    trade_count        bigint,
    first_agg_trade_id bigint,
    last_agg_trade_id  bigint,
    n_present          integer NOT NULL,
    known_at           timestamptz NOT NULL,
    PRIMARY KEY (symbol_id, timeframe, open_time)
);

CREATE VIEW md.rollup_part AS
SELECT symbol_id, timeframe, open_time, open, high, low, close, volume::numeric, quote_volume::numeric, trade_count,
    first_agg_trade_id, last_agg_trade_id, complete::integer AS n_present, known_at
FROM md.candle WHERE timeframe = '1m'
UNION ALL
SELECT symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count,
    first_agg_trade_id, last_agg_trade_id, n_present, known_at
FROM md.candle_rollup;

-- Makes every bar anew that touches [lo, hi) and says how many changed. What lies before the first partition of the 1m bars was
-- dropped with them and stays as it is. Times are literals in each statement, so that it is planned for its partitions alone.
CREATE FUNCTION md.rollup(symbol smallint, lo timestamptz, hi timestamptz) RETURNS bigint
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    target  text;
    source  text;
    width   interval;
    changed bigint;
    total   bigint := 0;
    floor   timestamptz;
BEGIN
    SELECT to_timestamp(substring(min(c.relname) FROM '\d+$'), 'YYYYMM') INTO floor
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'md.candle'::regclass;
    lo := greatest(lo, floor);
    FOR target, source, width IN VALUES
        ('3m', '1m', interval '3 minutes'), ('5m', '1m', '5 minutes'), ('15m', '5m', '15 minutes'),
        ('1h', '15m', '1 hour'), ('4h', '1h', '4 hours'), ('1d', '4h', '1 day')
    LOOP
        lo := date_bin(width, lo, 'epoch');
        hi := date_bin(width, hi + width - interval '1 microsecond', 'epoch');
        EXECUTE format($statement$
            WITH made AS (
                SELECT date_bin(%4$L, open_time, 'epoch') AS bucket, (array_agg(open ORDER BY open_time))[1] AS open,
                    max(high) AS high, min(low) AS low, (array_agg(close ORDER BY open_time))[count(*)] AS close,
                    sum(volume) AS volume, CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
                    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
                    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
                    sum(n_present) AS n_present, max(known_at) AS known_at
                FROM md.rollup_part
                WHERE symbol_id = %1$L AND timeframe = %3$L AND open_time >= %5$L AND open_time < %6$L GROUP BY 1
            ), gone AS (
                DELETE FROM md.candle_rollup WHERE symbol_id = %1$L AND timeframe = %2$L
                AND open_time >= %5$L AND open_time < %6$L AND open_time NOT IN (SELECT bucket FROM made) RETURNING 1
            ), kept AS (
                INSERT INTO md.candle_rollup AS t SELECT %1$L, %2$L, made.* FROM made
                ON CONFLICT (symbol_id, timeframe, open_time) DO UPDATE SET
                    (open, high, low, close, volume, quote_volume, trade_count, first_agg_trade_id, last_agg_trade_id,
                     n_present, known_at)
                    = (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume,
                       excluded.quote_volume, excluded.trade_count, excluded.first_agg_trade_id,
                       excluded.last_agg_trade_id, excluded.n_present, excluded.known_at)
                WHERE (t.open, t.high, t.low, t.close, t.volume, t.quote_volume, t.trade_count, t.first_agg_trade_id,
                       t.last_agg_trade_id, t.n_present, t.known_at)
                    IS DISTINCT FROM (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume,
                                      excluded.quote_volume, excluded.trade_count, excluded.first_agg_trade_id,
                                      excluded.last_agg_trade_id, excluded.n_present, excluded.known_at) RETURNING 1
            )
            SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM kept)
            $statement$, symbol, target, source, width, lo, hi
        ) INTO changed;
        total := total + changed;
    END LOOP;
    RETURN total;
END
$$;

CREATE VIEW md.rolled_up_3m AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present, 3 AS n_expected, known_at
FROM md.candle_rollup WHERE timeframe = '3m';
CREATE VIEW md.rolled_up_5m AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present, 5 AS n_expected, known_at
FROM md.candle_rollup WHERE timeframe = '5m';
CREATE VIEW md.rolled_up_15m AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present, 15 AS n_expected, known_at
FROM md.candle_rollup WHERE timeframe = '15m';
CREATE VIEW md.rolled_up_1h AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present, 60 AS n_expected, known_at
FROM md.candle_rollup WHERE timeframe = '1h';
CREATE VIEW md.rolled_up_4h AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present, 240 AS n_expected, known_at
FROM md.candle_rollup WHERE timeframe = '4h';
CREATE VIEW md.rolled_up_1d AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present, 1440 AS n_expected, known_at
FROM md.candle_rollup WHERE timeframe = '1d';

-- Ranges of 1m bars that were written and not rolled up yet. A write logs its own and rolls it up in the same transaction.
CREATE TABLE md.rollup_dirty (
    symbol_id smallint NOT NULL REFERENCES md.symbol,
    lo        timestamptz NOT NULL,
    hi        timestamptz NOT NULL CHECK (hi > lo)
);

-- Rolls up what was logged of [lo, hi) and says how many bars changed.
CREATE FUNCTION md.refresh_rollup(lo timestamptz, hi timestamptz) RETURNS bigint LANGUAGE sql AS $$
    WITH dirty AS (DELETE FROM md.rollup_dirty d WHERE d.lo < refresh_rollup.hi AND d.hi > refresh_rollup.lo RETURNING *)
    SELECT coalesce(sum(md.rollup(symbol_id, d.lo, d.hi)), 0)::bigint
    FROM (SELECT symbol_id, min(dirty.lo) AS lo, max(dirty.hi) AS hi FROM dirty GROUP BY symbol_id) d
$$;

INSERT INTO md.rollup_dirty
SELECT symbol_id, min(open_time), max(open_time) + interval '1 minute' FROM md.candle WHERE timeframe = '1m' GROUP BY 1;
SELECT md.refresh_rollup('-infinity', 'infinity');
