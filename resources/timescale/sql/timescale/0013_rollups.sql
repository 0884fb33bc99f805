-- Bars made of the complete and incomplete 1m bars below them, up the tree 1m -> {3m, 5m}, 5m -> 15m -> 1h -> 4h -> 1d, as
-- continuous aggregates that also show what was not materialized yet. Volumes are summed as numeric, so that a sum does not
-- depend on its order; what is unknown of a part is unknown of the whole.

CREATE MATERIALIZED VIEW md.candle_rollup_3m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol_id, time_bucket('3 minutes', open_time) AS open_time, first(open, open_time) AS open, max(high) AS high,
    min(low) AS low, last(close, open_time) AS close, sum(volume::numeric) AS volume,
    CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume::numeric) END AS quote_volume,
    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
    count(*) FILTER (WHERE complete)::bigint AS n_present, max(known_at) AS known_at
FROM md.candle
WHERE timeframe = '1m'
GROUP BY symbol_id, time_bucket('3 minutes', open_time)
WITH NO DATA;

CREATE MATERIALIZED VIEW md.candle_rollup_5m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol_id, time_bucket('5 minutes', open_time) AS open_time, first(open, open_time) AS open, max(high) AS high,
    min(low) AS low, last(close, open_time) AS close, sum(volume::numeric) AS volume,
    CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume::numeric) END AS quote_volume,
    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
    count(*) FILTER (WHERE complete)::bigint AS n_present, max(known_at) AS known_at
FROM md.candle
WHERE timeframe = '1m'
GROUP BY symbol_id, time_bucket('5 minutes', open_time)
WITH NO DATA;

CREATE MATERIALIZED VIEW md.candle_rollup_15m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol_id, time_bucket('15 minutes', open_time) AS open_time, first(open, open_time) AS open, max(high) AS high,
    min(low) AS low, last(close, open_time) AS close, sum(volume) AS volume,
    CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
    sum(n_present)::bigint AS n_present, max(known_at) AS known_at
FROM md.candle_rollup_5m
GROUP BY symbol_id, time_bucket('15 minutes', open_time)
WITH NO DATA;

CREATE MATERIALIZED VIEW md.candle_rollup_1h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol_id, time_bucket('1 hour', open_time) AS open_time, first(open, open_time) AS open, max(high) AS high,
    min(low) AS low, last(close, open_time) AS close, sum(volume) AS volume,
    CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
    sum(n_present)::bigint AS n_present, max(known_at) AS known_at
FROM md.candle_rollup_15m
GROUP BY symbol_id, time_bucket('1 hour', open_time)
WITH NO DATA;

CREATE MATERIALIZED VIEW md.candle_rollup_4h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol_id, time_bucket('4 hours', open_time) AS open_time, first(open, open_time) AS open, max(high) AS high,
    min(low) AS low, last(close, open_time) AS close, sum(volume) AS volume,
    CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
    sum(n_present)::bigint AS n_present, max(known_at) AS known_at
FROM md.candle_rollup_1h
GROUP BY symbol_id, time_bucket('4 hours', open_time)
WITH NO DATA;

CREATE MATERIALIZED VIEW md.candle_rollup_1d WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol_id, time_bucket('1 day', open_time) AS open_time, first(open, open_time) AS open, max(high) AS high,
    min(low) AS low, last(close, open_time) AS close, sum(volume) AS volume,
    CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
    CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::bigint END AS trade_count,
    min(first_agg_trade_id) AS first_agg_trade_id, max(last_agg_trade_id) AS last_agg_trade_id,
    sum(n_present)::bigint AS n_present, max(known_at) AS known_at
FROM md.candle_rollup_4h
GROUP BY symbol_id, time_bucket('1 day', open_time)
WITH NO DATA;

CREATE VIEW md.rolled_up_3m AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present::integer, 3 AS n_expected, known_at
FROM md.candle_rollup_3m;
CREATE VIEW md.rolled_up_5m AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present::integer, 5 AS n_expected, known_at
FROM md.candle_rollup_5m;
CREATE VIEW md.rolled_up_15m AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present::integer, 15 AS n_expected, known_at
FROM md.candle_rollup_15m;
CREATE VIEW md.rolled_up_1h AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present::integer, 60 AS n_expected, known_at
FROM md.candle_rollup_1h;
CREATE VIEW md.rolled_up_4h AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present::integer, 240 AS n_expected, known_at
FROM md.candle_rollup_4h;
CREATE VIEW md.rolled_up_1d AS
SELECT symbol_id, open_time, open, high, low, close, volume::float8, quote_volume::float8, trade_count, first_agg_trade_id,
    last_agg_trade_id, n_present::integer, 1440 AS n_expected, known_at
FROM md.candle_rollup_1d;

-- Materializes the bars that touch [lo, hi): with `late`, only those before what is materialized already, which nobody sees
-- otherwise; without, also those up to hi that are over, and then no gap is left before them. Nothing is asked of a time whose 1m
-- bars were dropped: that would delete what is made of them. A level is made after the one below it.
CREATE PROCEDURE md.refresh_rollups(lo timestamptz, hi timestamptz, late boolean) LANGUAGE plpgsql AS $$
DECLARE
    floor     timestamptz;
    level     text;
    width     interval;
    watermark timestamptz;
    start     timestamptz;
    stop      timestamptz;
BEGIN
    IF lo IS NULL OR hi IS NULL OR NOT isfinite(lo) OR NOT isfinite(hi) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a refresh needs a start and an end';
    END IF;
    SELECT min(range_start) INTO floor FROM timescaledb_information.chunks
    WHERE hypertable_schema = 'md' AND hypertable_name = 'candle';
    IF floor IS NULL THEN
        RETURN;
    END IF;
    FOR level, width IN VALUES ('3m', interval '3 minutes'), ('5m', '5 minutes'), ('15m', '15 minutes'), ('1h', '1 hour'),
        ('4h', '4 hours'), ('1d', '1 day')
    LOOP
        SELECT _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(mat_hypertable_id)) INTO watermark
        FROM _timescaledb_catalog.continuous_agg WHERE user_view_schema = 'md' AND user_view_name = 'candle_rollup_' || level;
        stop := least(time_bucket(width, hi + width - interval '1 microsecond'), watermark);
        IF NOT late THEN
            stop := greatest(stop, time_bucket(width, hi));
        END IF;
        start := time_bucket(width, greatest(CASE WHEN stop > watermark THEN least(lo, watermark) ELSE lo END, floor));
        IF start < stop THEN
            CALL public.refresh_continuous_aggregate(('md.candle_rollup_' || level)::regclass, start, stop,
                                                     options => '{"buckets_per_batch": 0}');
        END IF;
    END LOOP;
END
$$;

CREATE PROCEDURE md.keep_rollups(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
BEGIN
    CALL md.refresh_rollups('1970-01-01', now() - interval '1 hour', false);
END
$$;
SELECT add_job('md.keep_rollups', interval '1 hour');

ALTER MATERIALIZED VIEW md.candle_rollup_3m SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                                                 timescaledb.orderby = 'open_time DESC');
CALL add_columnstore_policy('md.candle_rollup_3m', after => interval '30 days', schedule_interval => interval '1 day');
ALTER MATERIALIZED VIEW md.candle_rollup_5m SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                                                 timescaledb.orderby = 'open_time DESC');
CALL add_columnstore_policy('md.candle_rollup_5m', after => interval '30 days', schedule_interval => interval '1 day');
ALTER MATERIALIZED VIEW md.candle_rollup_15m SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                                                 timescaledb.orderby = 'open_time DESC');
CALL add_columnstore_policy('md.candle_rollup_15m', after => interval '30 days', schedule_interval => interval '1 day');
ALTER MATERIALIZED VIEW md.candle_rollup_1h SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                                                 timescaledb.orderby = 'open_time DESC');
CALL add_columnstore_policy('md.candle_rollup_1h', after => interval '30 days', schedule_interval => interval '1 day');
ALTER MATERIALIZED VIEW md.candle_rollup_4h SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                                                 timescaledb.orderby = 'open_time DESC');
CALL add_columnstore_policy('md.candle_rollup_4h', after => interval '30 days', schedule_interval => interval '1 day');
ALTER MATERIALIZED VIEW md.candle_rollup_1d SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                                                 timescaledb.orderby = 'open_time DESC');
CALL add_columnstore_policy('md.candle_rollup_1d', after => interval '30 days', schedule_interval => interval '1 day');
