-- TimescaleDB: the big tables are hypertables whose older chunks go to the columnstore. The policies that do it are added here
-- and are the only ones; none drops anything, because only what is proven to be in the lake may go (see resources/timescale/backend.py).
SELECT create_hypertable('md.trade', by_range('time', interval '1 day'), create_default_indexes => false, migrate_data => true);
SELECT create_hypertable('md.candle', by_range('open_time', interval '30 days'), create_default_indexes => false,
                         migrate_data => true);
SELECT create_hypertable('md.indicator', by_range('open_time', interval '30 days'), create_default_indexes => false,
                         migrate_data => true);
SELECT create_hypertable('md.candle_1s', by_range('open_time', interval '1 day'), create_default_indexes => false,
                         migrate_data => true);
SELECT create_hypertable('md.book', by_range('time', interval '6 hours'), create_default_indexes => false,
                         migrate_data => true);
SELECT create_hypertable('md.book_second', by_range('time', interval '1 day'), create_default_indexes => false,
                         migrate_data => true);

ALTER TABLE md.trade SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                          timescaledb.orderby = 'time DESC, agg_trade_id DESC');
ALTER TABLE md.candle SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id, timeframe',
                           timescaledb.orderby = 'open_time DESC');
ALTER TABLE md.indicator SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id, timeframe',
                              timescaledb.orderby = 'open_time DESC');
ALTER TABLE md.candle_1s SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                              timescaledb.orderby = 'open_time DESC');
ALTER TABLE md.book SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id', timescaledb.orderby = 'time DESC');
ALTER TABLE md.book_second SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol_id',
                            timescaledb.orderby = 'time DESC');

CALL add_columnstore_policy('md.trade', after => interval '2 days', schedule_interval => interval '6 hours');
CALL add_columnstore_policy('md.candle', after => interval '14 days', schedule_interval => interval '1 day');
CALL add_columnstore_policy('md.indicator', after => interval '14 days', schedule_interval => interval '1 day');
CALL add_columnstore_policy('md.candle_1s', after => interval '3 days', schedule_interval => interval '6 hours');
CALL add_columnstore_policy('md.book', after => interval '12 hours', schedule_interval => interval '3 hours');
CALL add_columnstore_policy('md.book_second', after => interval '2 days', schedule_interval => interval '6 hours');
